//! Moving tensors between a store and a network, strictly and by name.

use super::{
    gguf::{GgufWriter, Metadata, TensorPlan},
    packed::{Blocks, pack},
    quant::{BLOCK, GgmlType},
};
use crate::{Error, Result};
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, Int, Tensor, TensorData},
};
use std::{borrow::Cow, collections::BTreeSet, io::Write};

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
    let mut loader = Loader { source, path: Path::new(prefix), packed: None, seen: BTreeSet::new(), error: None };
    let module = module.map(&mut loader);
    if let Some(error) = loader.error {
        return Err(error);
    }
    match source.names().into_iter().find(|name| name.starts_with(prefix) && !loader.seen.contains(name)) {
        Some(name) => Err(Error::TensorUnexpected { component: source.component().into(), name }),
        None => Ok(module),
    }
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

struct Loader<'a> {
    source: &'a dyn TensorSource,
    path: Path,
    /// The weight that was just taken in packed form; the layer's own comes next.
    packed: Option<String>,
    seen: BTreeSet<String>,
    error: Option<Error>,
}

impl Loader<'_> {
    /// What to load into `param`; nothing if it was loaded in packed form.
    fn tensor<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Result<Option<Tensor<D>>> {
        let name = self.path.name();
        let component = || self.source.component().to_string();
        let Some(stored) = self.source.tensor(&name)? else {
            return Err(Error::TensorMissing { component: component(), name });
        };
        let mut expected: Vec<usize> = param.lazy_shape().to_vec();
        let linear = self.path.is_linear();
        if linear {
            expected.reverse();
        }
        if stored.shape != expected {
            return Err(Error::TensorShape { component: component(), name, expected, found: stored.shape });
        }
        let packed = self.packed.take().is_some_and(|packed| packed == name);
        self.seen.insert(name);
        if packed {
            return Ok(None);
        }
        let values = stored.dtype.dequantize(&stored.bytes, expected.iter().product())?;
        let tensor = Tensor::<D>::from_data(TensorData::new(values, expected), &param.lazy_device());
        Ok(Some(if linear { tensor.transpose() } else { tensor }))
    }

    /// The packed form of a weight, empty if it is stored in another type or needed in f32.
    fn packed(&mut self, name: String, device: &Device) -> Result<TensorData> {
        let words = match self.source.tensor(&name)? {
            Some(stored) => packed(&name, &stored, device)?,
            None => None,
        };
        self.packed = words.is_some().then_some(name);
        let words = words.unwrap_or_default();
        let shape = [words.len()];
        Ok(TensorData::new(words, shape))
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

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        match self.tensor(&param) {
            Ok(Some(tensor)) => {
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Ok(None) => param,
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let (Some(name), None) = (self.path.packed_name(), &self.error) else {
            return param;
        };
        let device = param.lazy_device();
        match self.packed(name, &device) {
            // Most have no packed form, neither before nor now: nothing to allocate.
            Ok(words) if words.num_elements() + param.lazy_shape().num_elements() == 0 => param,
            Ok(words) => {
                let id = param.id;
                param.transform_for_load(Tensor::from_data(words, (&device, DType::U32)), id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
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
