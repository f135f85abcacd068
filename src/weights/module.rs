//! Moving tensors between a store and a network, strictly and by name.

use super::{
    StoredTensor, TensorSource,
    gguf::{GgufWriter, Metadata, TensorPlan},
    packed::{Blocks, pack},
    quant::{BLOCK, GgmlType},
};
use crate::{Error, Result};
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, Int, Tensor, TensorData},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
};

/// Loads every parameter of `module` from `source`, where each is looked up as `prefix` + its path.
///
/// Paths are diffusers' names: a field path joined by dots, except that burn's `gamma`/`beta` are called `weight`/`bias`
/// and that a field ending in `_N` under the few containers where PyTorch numbers its children (`to_out`, `net`, `conv`)
/// reads `.N`. The variant of an enum is not part of the path, nor is what [`Packable`](crate::nets::layers::Packable)
/// is made of.
/// Weights of `Linear` layers are stored `[out, in]` and transposed on the way in.
///
/// Weights of [`Packable`](crate::nets::layers::Packable) layers that are stored in blocks stay [packed](super::packed).
/// Everything else, and everything on a device that records gradients, becomes f32.
///
/// # Errors
/// [`Error::TensorMissing`], [`Error::TensorShape`], and [`Error::TensorUnexpected`] if `source` holds a tensor under
/// `prefix` that no parameter asked for; [`Error::Unsupported`] if a packed weight is larger than what every GPU reads at
/// once, 128 MiB.
pub fn load<M: Module>(module: M, source: &dyn TensorSource, prefix: &str) -> Result<M> {
    let mut assembly = Assembly::new(module, source.component(), prefix);
    assembly.check(source.names().iter().map(String::as_str))?;
    for name in assembly.names() {
        let stored = source.tensor(&name)?;
        let missing = || Error::TensorMissing { component: source.component().into(), name: name.clone() };
        assembly.place(&name, &stored.ok_or_else(missing)?)?;
    }
    Ok(assembly.finish())
}

/// Every parameter of `module` as `(name, shape, values)`, named and laid out as [`load`] expects them.
pub fn save<M: Module>(module: &M, prefix: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut saver = Saver { path: Path::new(prefix), packed: None, tensors: Vec::new() };
    module.visit(&mut saver);
    saver.tensors
}

/// Writes `module` as a GGUF file whose weights are stored as `quantization`, see [`TensorPlan::for_network`].
///
/// # Errors
/// [`Error::Invalid`] if a value cannot be stored, [`Error::Write`].
pub fn write_module<M: Module, W: Write>(
    module: &M,
    prefix: &str,
    quantization: GgmlType,
    metadata: &Metadata,
    out: W,
) -> Result<W> {
    let (plans, values): (Vec<_>, Vec<_>) = save(module, prefix)
        .into_iter()
        .map(|(name, shape, values)| (TensorPlan::for_network(name, shape, quantization), values))
        .unzip();
    let mut writer = GgufWriter::new(out, metadata, &plans)?;
    for (plan, values) in plans.iter().zip(values) {
        writer.tensor(&plan.dtype.quantize(&values)?)?;
    }
    writer.finish()
}

/// What module walks call a layer whose weight may be packed.
const PACKABLE: &str = "Struct:Packable";

/// Where in the module tree a walk stands.
struct Path {
    prefix: String,
    names: Vec<String>,
    containers: Vec<String>,
}

impl Path {
    fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into(), names: Vec::new(), containers: Vec::new() }
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.names.push(name.into());
        self.containers.push(container.into());
    }

    fn exit(&mut self) {
        self.names.pop();
        self.containers.pop();
    }

    /// The tensor name PyTorch would give this parameter.
    fn name(&self) -> String {
        format!("{}{}", self.prefix, self.parts().join("."))
    }

    fn parts(&self) -> Vec<String> {
        self.names
            .iter()
            .zip(&self.containers)
            .filter(|(_, container)| !container.starts_with("Enum:") && *container != PACKABLE)
            .map(|(name, _)| match name.as_str() {
                "gamma" => "weight".into(),
                "beta" => "bias".into(),
                other => match other.rsplit_once('_') {
                    Some((head @ ("to_out" | "net" | "conv"), index)) if index.parse::<usize>().is_ok() => {
                        format!("{head}.{index}")
                    }
                    _ => other.into(),
                },
            })
            .collect()
    }

    /// Whether the parameter is the matrix of a `Linear`, which burn keeps as `[in, out]`.
    fn is_linear(&self) -> bool {
        self.names.last().is_some_and(|name| name == "weight")
            && self.containers.last().is_some_and(|container| container.ends_with("Linear"))
    }

    /// The tensor name of the weight beside whose packed form the walk stands.
    fn packed_name(&self) -> Option<String> {
        let packable = self.containers.last().is_some_and(|container| container == PACKABLE);
        let parts = || self.parts().into_iter().chain(["weight".into()]).collect::<Vec<_>>();
        packable.then(|| format!("{}{}", self.prefix, parts().join(".")))
    }
}

/// A network that is given its tensors one after another, in any order.
pub(super) struct Assembly<M> {
    module: M,
    component: String,
    prefix: String,
    places: BTreeMap<String, Place>,
    placed: BTreeMap<String, Placed>,
}

/// Where a tensor belongs.
struct Place {
    /// Shape in the file.
    shape: Vec<usize>,
    /// Whether it is the matrix of a `Linear`.
    linear: bool,
    /// Whether it may stay in blocks.
    packable: bool,
    device: Device,
}

/// A tensor on its device.
enum Placed {
    D1(Tensor<1>),
    D2(Tensor<2>),
    D3(Tensor<3>),
    D4(Tensor<4>),
    Packed(Tensor<1, Int>),
}

impl<M: Module> Assembly<M> {
    /// Nothing is placed yet; `component` is for messages.
    pub fn new(module: M, component: &str, prefix: &str) -> Self {
        let mut places = Places { path: Path::new(prefix), packable: None, places: BTreeMap::new() };
        module.visit(&mut places);
        let Places { places, .. } = places;
        Self { module, component: component.into(), prefix: prefix.into(), places, placed: BTreeMap::new() }
    }

    /// What the network needs.
    pub fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    /// Whether the network needs a tensor of that name.
    pub fn wants(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Compares the names of a file with what the network needs.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], [`Error::TensorUnexpected`].
    pub fn check<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<()> {
        let (names, component) = (names.collect::<BTreeSet<_>>(), || self.component.clone());
        if let Some(name) = self.places.keys().find(|name| !names.contains(name.as_str())) {
            return Err(Error::TensorMissing { component: component(), name: name.clone() });
        }
        match names.into_iter().find(|name| name.starts_with(&self.prefix) && !self.wants(name)) {
            Some(name) => Err(Error::TensorUnexpected { component: component(), name: name.into() }),
            None => Ok(()),
        }
    }

    /// Checks the shape of one tensor.
    ///
    /// # Errors
    /// [`Error::TensorShape`].
    pub fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.places.get(name) {
            Some(place) if place.shape != shape => Err(Error::TensorShape {
                component: self.component.clone(),
                name: name.into(),
                expected: place.shape.clone(),
                found: shape.into(),
            }),
            _ => Ok(()),
        }
    }

    /// Brings a tensor to its device.
    ///
    /// # Errors
    /// [`Error::TensorShape`], [`Error::Corrupt`]; [`Error::Unsupported`] as for [`load`].
    pub fn place(&mut self, name: &str, stored: &StoredTensor<'_>) -> Result<()> {
        self.check_shape(name, &stored.shape)?;
        let Some(place) = self.places.get(name) else {
            return Ok(());
        };
        let words = if place.packable { packed(name, stored, &place.device)? } else { None };
        let placed = match stored.shape.len() {
            _ if let Some(words) = words => {
                let shape = [words.len()];
                Placed::Packed(Tensor::from_data(TensorData::new(words, shape), (&place.device, DType::U32)))
            }
            1 => Placed::D1(place.tensor(stored)?),
            2 => Placed::D2(place.tensor(stored)?),
            3 => Placed::D3(place.tensor(stored)?),
            4 => Placed::D4(place.tensor(stored)?),
            axes => return Err(Error::Unsupported(format!("tensor `{name}` of {axes} axes"))),
        };
        self.placed.insert(name.into(), placed);
        Ok(())
    }

    /// Sends what was placed to its device: what waits for that waits in memory.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn flush(&self) -> Result<()> {
        match self.places.values().next() {
            Some(place) => place.device.flush().map_err(|error| Error::Device(format!("{error:?}"))),
            None => Ok(()),
        }
    }

    /// The network, all tensors in their places.
    ///
    /// # Panics
    /// If one was not placed.
    pub fn finish(self) -> M {
        let mut filler = Filler { path: Path::new(&self.prefix), placed: self.placed };
        self.module.map(&mut filler)
    }
}

impl Place {
    /// The tensor in f32.
    fn tensor<const D: usize>(&self, stored: &StoredTensor<'_>) -> Result<Tensor<D>> {
        let values = stored.dtype.dequantize(&stored.bytes, self.shape.iter().product())?;
        let tensor = Tensor::<D>::from_data(TensorData::new(values, self.shape.clone()), &self.device);
        Ok(if self.linear { tensor.transpose() } else { tensor })
    }
}

/// Finds out what a network needs.
struct Places {
    path: Path,
    /// The weight beside whose packed form the walk stood last.
    packable: Option<String>,
    places: BTreeMap<String, Place>,
}

impl ModuleVisitor for Places {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let linear = self.path.is_linear();
        let mut shape = param.lazy_shape().to_vec();
        if linear {
            shape.reverse();
        }
        let name = self.path.name();
        let packable = self.packable.take_if(|packable| *packable == name).is_some();
        self.places.insert(name, Place { shape, linear, packable, device: param.lazy_device() });
    }

    fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
        if let Some(name) = self.path.packed_name() {
            self.packable = Some(name);
        }
    }
}

/// Bytes that a shader can read through one binding on any GPU.
const LARGEST_BINDING: usize = 128 << 20;

/// The words of a weight that stays packed on `device`.
fn packed(name: &str, stored: &StoredTensor<'_>, device: &Device) -> Result<Option<Vec<u32>>> {
    // Blocks that straddle rows are legal in a file, but no row of theirs could be read alone.
    let whole_rows = stored.shape.iter().skip(1).product::<usize>().is_multiple_of(BLOCK);
    if device.is_autodiff() || !stored.dtype.is_quantized() || !whole_rows {
        return Ok(None);
    }
    if *device != Device::flex() && stored.bytes.len() > LARGEST_BINDING {
        let bytes = stored.bytes.len();
        return Err(Error::Unsupported(format!("`{name}` of {bytes} bytes, a GPU reads {LARGEST_BINDING} at once")));
    }
    pack(stored.dtype, &stored.bytes, stored.shape.iter().product()).map(Some)
}

/// Puts tensors into their places.
struct Filler {
    path: Path,
    placed: BTreeMap<String, Placed>,
}

impl ModuleMapper for Filler {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let id = param.id;
        let tensor = match self.placed.remove(&name).unwrap_or_else(|| panic!("tensor `{name}` was not placed")) {
            Placed::D1(tensor) => tensor.into_dispatch(),
            Placed::D2(tensor) => tensor.into_dispatch(),
            Placed::D3(tensor) => tensor.into_dispatch(),
            Placed::D4(tensor) => tensor.into_dispatch(),
            // It is in its place beside, and this one is not asked for.
            Placed::Packed(_) => return param,
        };
        param.transform_for_load(Tensor::from_dispatch(tensor), id)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let Some(name) = self.path.packed_name() else {
            return param;
        };
        let (id, device) = (param.id, param.lazy_device());
        match self.placed.get(&name) {
            Some(Placed::Packed(words)) => {
                param.transform_for_load(Tensor::from_dispatch(words.clone().into_dispatch()), id)
            }
            // Most have no packed form, neither before nor now: nothing to allocate.
            _ if param.lazy_shape().num_elements() == 0 => param,
            _ => param.transform_for_load(
                Tensor::from_data(TensorData::new(Vec::<u32>::new(), [0]), (&device, DType::U32)),
                id,
            ),
        }
    }
}

struct Saver {
    path: Path,
    /// The packed form of the weight that comes next, if it has one.
    packed: Option<Vec<u32>>,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl ModuleVisitor for Saver {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        if self.path.packed_name().is_some() && param.lazy_shape().num_elements() > 0 {
            self.packed = Some(param.val().into_data().try_to_vec().expect("packed weights are words"));
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (shape, values) = match self.packed.take() {
            Some(words) => {
                let mut shape = param.lazy_shape().to_vec();
                if self.path.is_linear() {
                    shape.reverse();
                }
                let mut values = vec![0.0; shape.iter().product()];
                let blocks = Blocks::new(&words, values.len()).expect("as many words as the shape needs");
                blocks.read(0, &mut values);
                (shape, values)
            }
            None => {
                let value = if self.path.is_linear() { param.val().transpose() } else { param.val() };
                let values = value.to_data().convert::<f32>().try_to_vec::<f32>().expect("converted to f32 above");
                (value.dims().to_vec(), values)
            }
        };
        self.tensors.push((self.path.name(), shape, values));
    }
}
