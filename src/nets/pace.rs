//! A handle that long computations report to, and that can stop them.

use crate::{Error, Result};
use burn::tensor::Tensor;
use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// How far a network evaluation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Blocks finished in this evaluation.
    pub done: usize,
    /// Blocks in one evaluation.
    pub of: usize,
}

/// Runs a network's future to its end in one poll, for callers without an executor; `network` must have been given
/// [`Pace::free`], which never waits.
///
/// # Panics
/// If the future waits.
pub fn now<T>(network: impl Future<Output = T>) -> T {
    match pin!(network).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a network run with Pace::free never waits"),
    }
}

type Yielder = dyn Fn(Tensor<4>) -> Pin<Box<dyn Future<Output = Result<()>>>>;
type Listener = dyn FnMut(Progress);

/// Handed to every network evaluation: between two blocks the network calls [`Pace::checkpoint`].
///
/// A checkpoint does three things: it fails with [`Error::Cancelled`] once [`Pace::cancel`] was called, so that a run
/// stops *inside* a step; it reports [`Progress`]; and every `every`-th time it waits for the yielder, which lets an
/// event loop run and bounds the work queued on a GPU.
///
/// [`Pace::free`] never waits and never fails: with it every network future is ready at the first poll, so that
/// the trainer may run it to completion without an executor.
#[derive(Clone, Default)]
pub struct Pace {
    inner: Option<Rc<Inner>>,
}

struct Inner {
    cancelled: Cell<bool>,
    passed: Cell<usize>,
    every: usize,
    yielder: Option<Box<Yielder>>,
    on_progress: RefCell<Option<Box<Listener>>>,
    /// Those who wait for something else and must hear of a cancel.
    waiting: RefCell<Vec<Waker>>,
}

impl Pace {
    /// A pace that never waits and cannot be cancelled.
    pub fn free() -> Self {
        Self::default()
    }

    /// A pace that can be cancelled, without a yielder.
    pub fn cancellable() -> Self {
        Self::new(1, None)
    }

    /// A pace that awaits `yielder(activation)` at every `every`-th checkpoint (`every >= 1`).
    ///
    /// The yielder gets the block's output, so that it may read one element back: on a GPU that is what bounds the
    /// work in flight.
    pub fn new(every: usize, yielder: Option<Box<Yielder>>) -> Self {
        Self {
            inner: Some(Rc::new(Inner {
                cancelled: Cell::new(false),
                passed: Cell::new(0),
                every: every.max(1),
                yielder,
                on_progress: RefCell::new(None),
                waiting: RefCell::default(),
            })),
        }
    }

    /// A pace that waits for the device at every `every`-th checkpoint, by reading one element back: that bounds the
    /// work in flight on a GPU.
    pub fn reading_back(every: usize) -> Self {
        Self::new(every, Some(Box::new(|activation| Box::pin(wait_for(activation)))))
    }

    /// Calls `listener` at every checkpoint.
    pub fn on_progress(&self, listener: impl FnMut(Progress) + 'static) {
        if let Some(inner) = &self.inner {
            *inner.on_progress.borrow_mut() = Some(Box::new(listener));
        }
    }

    /// Makes the next checkpoint, and all after it, fail.
    pub fn cancel(&self) {
        if let Some(inner) = &self.inner {
            inner.cancelled.set(true);
            inner.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// What `work` answers, unless this is cancelled first: then `work` is dropped at once.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and those of `work`.
    pub async fn race<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            if let Err(cancelled) = self.check() {
                return Poll::Ready(Err(cancelled));
            }
            if let Some(inner) = &self.inner {
                let waiting = &mut *inner.waiting.borrow_mut();
                if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
            }
            work.as_mut().poll(context)
        })
        .await
    }

    /// Whether [`Pace::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.cancelled.get())
    }

    /// Called by a network between two blocks.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or the yielder's error.
    pub async fn checkpoint(&self, done: usize, of: usize, activation: &Tensor<4>) -> Result<()> {
        let Some(inner) = &self.inner else {
            return Ok(());
        };
        self.check()?;
        if let Some(listener) = inner.on_progress.borrow_mut().as_mut() {
            listener(Progress { done, of });
        }
        inner.passed.set(inner.passed.get() + 1);
        if let Some(yielder) = &inner.yielder
            && inner.passed.get().is_multiple_of(inner.every)
        {
            // A cancel does not wait for what a GPU still has to compute.
            self.race(yielder(activation.clone())).await?;
        }
        self.check()
    }

    /// Fails if cancelled.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Waits until `activation` is computed.
///
/// # Errors
/// [`Error::Device`] if the device failed.
pub async fn wait_for(activation: Tensor<4>) -> Result<()> {
    let element = activation.slice([0..1, 0..1, 0..1, 0..1]).into_data_async().await;
    // Where there are threads the answer comes before the bytes: looking at them is what waits.
    let looked = element.map(|data| data.iter::<f32>().next());
    looked.map(|_| ()).map_err(|error| Error::Device(format!("{error:?}")))
}
