//! Networks that come when they are needed, and leave when memory is short.

use crate::{
    Error, Result,
    diffusion::{Cond, Denoising, Network},
    nets::Pace,
    weights::{
        Arrival, Depot,
        manifest::{Component, Manifest},
        source::Pending,
        stock,
    },
};
use burn::tensor::{Device, Tensor};
use futures_util::lock::Mutex;
use std::{
    any::{Any, TypeId},
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::{Rc, Weak},
};

/// What of a model is in memory, and what must leave for others to come.
///
/// Components are known by their content: models that share a file share the network in it.
pub struct Residency {
    device: Device,
    /// Bytes of weights that may stay although nothing needs them now.
    budget: u64,
    parts: RefCell<BTreeMap<Key, Rc<dyn Part>>>,
    /// Counts uses, to know the oldest.
    uses: Cell<u64>,
    peak: Cell<u64>,
}

/// The checksums of a file, and what is made of it.
type Key = (Vec<String>, TypeId);

/// Makes a network of what arrives.
type Build<T> = Box<dyn Fn(Arrival, Device) -> Pending<'static, Result<T>>>;

/// A network that may be here or not.
pub struct Resident<T> {
    component: Component,
    manifest: Rc<Manifest>,
    depot: Depot,
    build: Build<T>,
    here: RefCell<Option<Rc<T>>>,
    used: Cell<u64>,
    /// Held while it comes: it comes once, whoever waits for it.
    coming: Mutex<()>,
    device: Device,
    residency: Weak<Residency>,
}

/// A [`Resident`] of whatever type.
pub trait Part {
    /// The file.
    fn component(&self) -> &Component;
    /// The manifest that lists the file.
    fn manifest(&self) -> &Manifest;
    /// Where the file comes from.
    fn depot(&self) -> &Depot;
    /// Whether it is in memory.
    fn is_here(&self) -> bool;
    /// Whether it is on its way into memory.
    fn is_coming(&self) -> bool;
    /// Whether nobody needs it now.
    fn is_idle(&self) -> bool;
    /// When it was needed last, by [`Residency::uses`].
    fn used(&self) -> u64;
    /// Leaves memory.
    fn leave(&self);
    /// Comes into memory.
    fn come<'a>(&'a self, pace: &'a Pace) -> Pending<'a, Result<()>>;
    /// For [`Residency::part`].
    fn any(self: Rc<Self>) -> Rc<dyn Any>;
}

impl Residency {
    /// On `device`, with room for `budget` bytes of weights: what is needed comes even so, but then all else leaves.
    pub fn new(device: Device, budget: u64) -> Rc<Self> {
        Rc::new(Self { device, budget, parts: RefCell::default(), uses: Cell::default(), peak: Cell::default() })
    }

    /// The component of `role`, which must hold one of `networks`; made by `build` when it comes. It comes when it is needed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the manifest does not list it, [`Error::Unsupported`] if it is another network.
    pub fn part<T: 'static, F: Future<Output = Result<T>> + 'static>(
        self: &Rc<Self>,
        (depot, manifest): (&Depot, &Rc<Manifest>),
        role: &str,
        networks: &[&str],
        build: impl Fn(Arrival, Device) -> F + 'static,
    ) -> Result<Rc<Resident<T>>> {
        let component = manifest.component(role)?;
        if !networks.contains(&component.network.as_str()) {
            return Err(Error::Unsupported(format!("network `{}` as `{role}`", component.network)));
        }
        let key = (component.sha256.clone(), TypeId::of::<T>());
        let known = self.parts.borrow().get(&key).cloned();
        if let Some(Ok(known)) = known.map(|part| part.any().downcast()) {
            return Ok(known);
        }
        let part = Rc::new(Resident {
            component: component.clone(),
            manifest: manifest.clone(),
            depot: depot.clone(),
            build: Box::new(move |arrival, device| Box::pin(build(arrival, device))),
            here: RefCell::default(),
            used: Cell::default(),
            coming: Mutex::new(()),
            device: self.device.clone(),
            residency: Rc::downgrade(self),
        });
        self.parts.borrow_mut().insert(key, part.clone());
        Ok(part)
    }

    /// Whether the file of these checksums is on its way into memory.
    pub fn is_coming(&self, sha256: &[String]) -> bool {
        let parts = self.parts.borrow();
        parts.iter().any(|((sums, _), part)| sums == sha256 && part.is_coming())
    }

    /// Where the networks live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of weights that are here.
    pub fn bytes(&self) -> u64 {
        self.parts.borrow().values().filter(|part| part.is_here()).map(|part| part.component().bytes).sum()
    }

    /// Most bytes of weights that were ever here at once.
    pub fn peak(&self) -> u64 {
        self.peak.get()
    }

    /// Bytes of weights that may be here though nothing needs them.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Brings `part` ahead of its need: into memory if there is room, else as far as the store.
    pub async fn ahead(&self, part: &dyn Part, pace: &Pace) -> Result<()> {
        if part.is_here() {
            Ok(())
        } else if self.bytes() + part.component().bytes <= self.budget {
            part.come(pace).await
        } else if part.depot().keeps() {
            pace.race(stock(part.depot(), part.manifest(), part.component())).await
        } else {
            Ok(())
        }
    }

    /// Sends away what was idle longest, until `bytes` more are within the budget or all that is here is needed.
    fn make_room(&self, bytes: u64) {
        let mut left = false;
        while self.bytes() + bytes > self.budget {
            let oldest = {
                let parts = self.parts.borrow();
                // What cannot be had again without the network stays.
                let idle = parts.values().filter(|part| part.is_here() && part.is_idle() && part.depot().keeps());
                idle.min_by_key(|part| part.used()).cloned()
            };
            let Some(oldest) = oldest else { break };
            oldest.leave();
            left = true;
        }
        if left {
            self.device.memory_cleanup();
        }
    }

    fn use_now(&self) -> u64 {
        self.uses.set(self.uses.get() + 1);
        self.uses.get()
    }
}

impl<T: 'static> Resident<T> {
    /// The network, as soon as it is here. It stays at least as long as the answer does.
    ///
    /// # Errors
    /// As [`Arrival::new`] and [`Arrival::load`]; [`Error::Cancelled`].
    pub async fn get(&self, pace: &Pace) -> Result<Rc<T>> {
        if let Some(here) = self.touch() {
            return Ok(here);
        }
        let come = async {
            let _coming = self.coming.lock().await;
            if let Some(here) = self.touch() {
                return Ok(here);
            }
            let residency = self.residency.upgrade();
            if let Some(residency) = &residency {
                residency.make_room(self.component.bytes);
            }
            let arrival = Arrival::new(&self.depot, &self.manifest, &self.component).await?;
            let network = Rc::new((self.build)(arrival, self.device.clone()).await?);
            self.here.replace(Some(network.clone()));
            self.touch();
            if let Some(residency) = &residency {
                residency.peak.set(residency.peak.get().max(residency.bytes()));
            }
            Ok(network)
        };
        pace.race(come).await
    }

    /// The network, if it is here; it counts as used.
    fn touch(&self) -> Option<Rc<T>> {
        let here = self.here.borrow().clone()?;
        self.used.set(self.residency.upgrade().map_or(0, |residency| residency.use_now()));
        Some(here)
    }
}

impl<T: 'static> Part for Resident<T> {
    fn component(&self) -> &Component {
        &self.component
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn depot(&self) -> &Depot {
        &self.depot
    }

    fn is_here(&self) -> bool {
        self.here.borrow().is_some()
    }

    fn is_coming(&self) -> bool {
        self.coming.try_lock().is_none()
    }

    fn is_idle(&self) -> bool {
        self.here.borrow().as_ref().is_none_or(|network| Rc::strong_count(network) == 1)
    }

    fn used(&self) -> u64 {
        self.used.get()
    }

    fn leave(&self) {
        self.here.take();
    }

    fn come<'a>(&'a self, pace: &'a Pace) -> Pending<'a, Result<()>> {
        Box::pin(async move { self.get(pace).await.map(drop) })
    }

    fn any(self: Rc<Self>) -> Rc<dyn Any> {
        self
    }
}

/// A network that is waited for when it is first asked.
impl<N: Network + 'static> Network for Resident<N> {
    fn predict<'a>(&'a self, x: Tensor<4>, timesteps: Tensor<1>, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        Box::pin(async move { self.get(pace).await?.predict(x, timesteps, cond, pace).await })
    }
}
