//! Moving tensors between a store and a network, strictly and by name.

use super::{
    gguf::{GgufWriter, Metadata, TensorPlan},
    quant::{BLOCK, GgmlType, split_q8_0},
};
use crate::{Error, Result};
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{
        DType, Device, Tensor, TensorData,
        quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype},
    },
};
use std::{borrow::Cow, collections::BTreeMap, io::Write};

/// One tensor as it is stored: bytes of a ggml type, with PyTorch's shape order (outermost axis first).
#[derive(Debug, Clone)]
pub struct StoredTensor<'a> {
    /// Axes, outermost first.
    pub shape: Vec<usize>,
    /// Element type of `bytes`.
    pub dtype: GgmlType,
    /// Little-endian data, whole blocks for quantized types.
    pub bytes: Cow<'a, [u8]>,
}

/// The named tensors of one component, whatever file they lie in.
pub trait TensorSource {
    /// Name of the component, for messages.
    fn component(&self) -> &str;
    /// All tensor names.
    fn names(&self) -> Vec<String>;
    /// One tensor, if there is one of that name.
    ///
    /// # Errors
    /// If the bytes cannot be read.
    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>>;
}

/// Loads every parameter of `module` from `source`, where each is looked up as `prefix` + its path.
///
/// Paths are diffusers' names: a field path joined by dots, except that burn's `gamma`/`beta` are called `weight`/`bias`
/// and that a field ending in `_N` under the few containers where PyTorch numbers its children (`to_out`, `net`, `conv`)
/// reads `.N`. The variant of an enum is not part of the path.
/// Weights of `Linear` layers are stored `[out, in]` and transposed on the way in.
///
/// On a GPU the `Q8_0` weights of `Linear` layers stay quantized: 36 bytes a block of 32 rather than 128, read as they are
/// by the matrix multiplication. Everything else, and everything on the CPU backend or on a device that records
/// gradients, becomes f32.
///
/// # Errors
/// [`Error::TensorMissing`], [`Error::TensorShape`], and [`Error::TensorUnexpected`] if `source` holds a tensor under
/// `prefix` that no parameter asked for.
pub fn load<M: Module>(module: M, source: &dyn TensorSource, prefix: &str) -> Result<M> {
    let mut assembly = Assembly::new(module, source.component(), prefix);
    assembly.check(&source.names())?;
    for name in assembly.names() {
        let stored = source.tensor(&name)?;
        let missing = || Error::TensorMissing { component: source.component().into(), name: name.clone() };
        assembly.place(&name, &stored.ok_or_else(missing)?)?;
    }
    Ok(assembly.finish())
}

/// Every parameter of `module` as `(name, shape, values)`, named and laid out as [`load`] expects them.
pub fn save<M: Module>(module: &M, prefix: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut saver = Saver { path: Path::new(prefix), tensors: Vec::new() };
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
        let parts: Vec<String> = self
            .names
            .iter()
            .zip(&self.containers)
            .filter(|(_, container)| !container.starts_with("Enum:"))
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
            .collect();
        format!("{}{}", self.prefix, parts.join("."))
    }

    /// Whether the parameter is the matrix of a `Linear`, which burn keeps as `[in, out]`.
    fn is_linear(&self) -> bool {
        self.names.last().is_some_and(|name| name == "weight")
            && self.containers.last().is_some_and(|container| container.ends_with("Linear"))
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
    device: Device,
}

/// A tensor on its device.
enum Placed {
    D1(Tensor<1>),
    D2(Tensor<2>),
    D3(Tensor<3>),
    D4(Tensor<4>),
}

impl<M: Module> Assembly<M> {
    /// Nothing is placed yet; `component` is for messages.
    pub fn new(module: M, component: &str, prefix: &str) -> Self {
        let mut places = Places { path: Path::new(prefix), places: BTreeMap::new() };
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
    pub fn check(&self, names: &[String]) -> Result<()> {
        let component = || self.component.clone();
        if let Some(name) = self.places.keys().find(|name| !names.contains(name)) {
            return Err(Error::TensorMissing { component: component(), name: name.clone() });
        }
        match names.iter().find(|name| name.starts_with(&self.prefix) && !self.wants(name)) {
            Some(name) => Err(Error::TensorUnexpected { component: component(), name: name.clone() }),
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
    /// [`Error::TensorShape`], [`Error::Corrupt`].
    pub fn place(&mut self, name: &str, stored: &StoredTensor<'_>) -> Result<()> {
        self.check_shape(name, &stored.shape)?;
        let Some(place) = self.places.get(name) else {
            return Ok(());
        };
        let placed = match stored.shape.len() {
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
    fn tensor<const D: usize>(&self, stored: &StoredTensor<'_>) -> Result<Tensor<D>> {
        let shape = &self.shape;
        // Blocks that straddle rows are legal in a file, but not on a GPU.
        let whole_rows = shape.last().is_some_and(|row| row.is_multiple_of(BLOCK));
        let data = match self.linear && whole_rows && stored.dtype == GgmlType::Q8_0 && keeps_quantized(&self.device) {
            true => quantized(stored)?,
            false => TensorData::new(stored.dtype.dequantize(&stored.bytes, shape.iter().product())?, shape.clone()),
        };
        let tensor = Tensor::<D>::from_data(data, &self.device);
        Ok(if self.linear { tensor.transpose() } else { tensor })
    }
}

/// Finds out what a network needs.
struct Places {
    path: Path,
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
        self.places.insert(self.path.name(), Place { shape, linear, device: param.lazy_device() });
    }
}

/// Whether `device` multiplies by quantized matrices: a GPU, unless it records gradients.
fn keeps_quantized(device: &Device) -> bool {
    !device.is_autodiff() && *device != Device::flex()
}

/// A `Q8_0` matrix as burn keeps it, the numbers first and then the scales in f32.
///
/// Its blocks run along the last axis, `in`; transposing it afterwards only relabels the axes.
fn quantized(stored: &StoredTensor<'_>) -> Result<TensorData> {
    let scheme = QuantScheme::default()
        .with_value(QuantValue::Q8S)
        .with_store(QuantStore::PackedU32(0))
        .per_block([BLOCK as u8], ScaleDtype::F32);
    let count = stored.shape.iter().product();
    Ok(TensorData::from_bytes_vec(split_q8_0(&stored.bytes, count)?, stored.shape.clone(), DType::QFloat(scheme)))
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
        };
        param.transform_for_load(Tensor::from_dispatch(tensor), id)
    }
}

struct Saver {
    path: Path,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl ModuleVisitor for Saver {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let value = if let DType::QFloat(_) = value.dtype() { value.dequantize() } else { value };
        let value = if self.path.is_linear() { value.transpose() } else { value };
        let shape = value.dims().to_vec();
        let values = value.into_data().convert::<f32>().try_to_vec::<f32>().expect("converted to f32 above");
        self.tensors.push((self.path.name(), shape, values));
    }
}
