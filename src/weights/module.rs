//! Moving tensors between a store and a network, strictly and by name.

use super::{
    StoredTensor, TensorSource,
    gguf::{GgufWriter, Metadata, TensorPlan},
    packed::{Blocks, Packer, split},
    quant::{BLOCK, GgmlType},
};
use crate::{Error, Result};
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, Element, Int, Shape, Tensor, TensorData, kind::Basic},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    ops::Range,
};

/// Loads every parameter of `module` from `source`, where each is looked up as `prefix` + its path.
///
/// Paths are diffusers' names: a field path joined by dots, except that burn's `gamma`/`beta` are called `weight`/`bias`
/// and that a field ending in `_N` under the few containers where PyTorch numbers its children (`to_out`, `net`, `conv`)
/// reads `.N`. The variant of an enum is not part of the path, nor is what [`Packable`](crate::nets::layers::Packable)
/// is made of.
/// Weights of `Linear` layers are stored `[out, in]` and transposed on the way in.
///
/// Weights of [`Packable`](crate::nets::layers::Packable) layers that are stored in blocks stay [packed](super::packed), and those
/// that are larger than what every GPU reads at once are cut into parts. Everything else, and everything on a device that
/// records gradients, becomes f32.
///
/// # Errors
/// [`Error::TensorMissing`], [`Error::TensorShape`], and [`Error::TensorUnexpected`] if `source` holds a tensor under
/// `prefix` that no parameter asked for; [`Error::Corrupt`] if a tensor is longer or shorter than its shape says.
pub fn load<M: Module>(module: M, source: &dyn TensorSource, prefix: &str) -> Result<M> {
    let mut assembly = Assembly::new(module, source.component(), prefix);
    assembly.check(source.names().iter().map(String::as_str))?;
    for name in assembly.names() {
        let stored = source.tensor(&name)?;
        let missing = || Error::TensorMissing { component: source.component().into(), name: name.clone() };
        let StoredTensor { shape, dtype, bytes } = stored.ok_or_else(missing)?;
        assembly.check_shape(&name, &shape)?;
        let mut incoming = assembly.expect(&name, dtype)?;
        incoming.push(&bytes)?;
        let placed = incoming.finish()?;
        assembly.place(&name, placed);
    }
    Ok(assembly.finish())
}

/// Every parameter of `module` as `(name, shape, values)`, named and laid out as [`load`] expects them.
pub fn save<M: Module>(module: &M, prefix: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut saver = Saver { path: Path::new(prefix), packed: Vec::new(), tensors: Vec::new() };
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

    /// The tensor name of the weight beside a part of whose packed form the walk stands, and which part that is.
    fn packed_part(&self) -> Option<(String, usize)> {
        let ([.., container, _], Some(part)) = (&self.containers[..], self.names.last()?.parse().ok()) else {
            return None;
        };
        let mut names = self.parts();
        names.pop();
        names.push("weight".into());
        (container == PACKABLE).then(|| (format!("{}{}", self.prefix, names.join(".")), part))
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
    /// In how many parts it is kept if it is packed; 0 if it may not be.
    parts: usize,
    device: Device,
}

/// A tensor on its device.
pub(super) enum Placed {
    D1(Tensor<1>),
    D2(Tensor<2>),
    D3(Tensor<3>),
    D4(Tensor<4>),
    Packed(Vec<Tensor<1, Int>>),
}

impl<M: Module> Assembly<M> {
    /// Nothing is placed yet; `component` is for messages.
    pub fn new(module: M, component: &str, prefix: &str) -> Self {
        let mut places = Places { path: Path::new(prefix), packable: (String::new(), 0), places: BTreeMap::new() };
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

    /// Takes a tensor of the network, of the network's shape, piece by piece.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it has more axes than tensors have; as [`Packer::new`].
    pub fn expect(&self, name: &str, dtype: GgmlType) -> Result<Incoming<'_>> {
        let place = &self.places[name];
        if !(1..=4).contains(&place.shape.len()) {
            return Err(Error::Unsupported(format!("tensor `{name}` of {} axes", place.shape.len())));
        }
        Incoming::new(place, dtype)
    }

    /// Keeps a tensor that has come.
    pub fn place(&mut self, name: &str, placed: Placed) {
        self.placed.insert(name.into(), placed);
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

/// Bytes of one tensor that a GPU is given at once, at most; the default model's tensors are shorter.
pub const PIECE: usize = 8 << 20;

/// A tensor that comes bit by bit. Memory holds it once, as its device will have it; of a long one that goes to a GPU, a piece.
pub(super) struct Incoming<'a> {
    place: &'a Place,
    dtype: GgmlType,
    /// The beginning of a block that has not come whole.
    rest: Vec<u8>,
    /// The piece that comes, and those after it.
    piece: Piece,
    pieces: std::vec::IntoIter<Piece>,
    form: Form,
}

/// What the device is given at once: some numbers of a part, which has so many. What is not kept in parts is one part.
#[derive(Debug, Clone)]
struct Piece {
    numbers: Range<usize>,
    of: usize,
}

/// The piece that comes, and the parts that are on the device, the last as far as its pieces were sent.
enum Form {
    /// In f32.
    Dense(Vec<f32>, Vec<Tensor<1>>),
    /// In words.
    Packed(Packer, Vec<Tensor<1, Int>>),
}

impl<'a> Incoming<'a> {
    fn new(place: &'a Place, dtype: GgmlType) -> Result<Self> {
        let columns = place.shape.iter().skip(1).product::<usize>();
        // Blocks that straddle rows are legal in a file, but no row of theirs could be read alone.
        let packed = columns.is_multiple_of(BLOCK) && (dtype.is_quantized() || place.parts > 1);
        let packed = packed && place.parts > 0 && !place.device.is_autodiff();
        let at_once = place.at_once(if packed && dtype.is_quantized() { dtype } else { GgmlType::F32 });
        let parts = split(place.shape[0], if packed { place.parts } else { 1 }).map(|rows| rows.len() * columns);
        let mut pieces = parts.flat_map(|of| pieces(of, at_once)).collect::<Vec<_>>().into_iter();
        let piece = pieces.next().expect("a part has pieces");
        let form = if packed {
            Form::Packed(Packer::new(dtype, piece.numbers.len())?, Vec::new())
        } else {
            Form::Dense(room(piece.numbers.len())?, Vec::new())
        };
        let incoming = Self { place, dtype, rest: Vec::new(), piece, pieces, form };
        let whole = place.shape.iter().product::<usize>().is_multiple_of(dtype.block());
        if whole { Ok(incoming) } else { Err(incoming.wrong_length()) }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they are more than the tensor has; [`Error::Device`].
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        let block = self.dtype.block_bytes();
        if !self.rest.is_empty() {
            let missing = bytes.len().min(block - self.rest.len());
            self.rest.extend(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.rest.len() < block {
                return Ok(());
            }
            let whole = std::mem::take(&mut self.rest);
            self.push_blocks(&whole)?;
        }
        let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % block);
        self.rest.extend(rest);
        self.push_blocks(whole)
    }

    fn push_blocks(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.missing() == 0 {
                let Some(next) = self.pieces.next() else { return Err(self.wrong_length()) };
                // One piece goes before the next one takes memory.
                self.send();
                self.place.flush()?;
                match &mut self.form {
                    Form::Dense(values, _) => *values = room(next.numbers.len())?,
                    Form::Packed(packer, _) => *packer = Packer::new(self.dtype, next.numbers.len())?,
                }
                self.piece = next;
            }
            let (these, others) = bytes.split_at(bytes.len().min(self.missing()));
            match &mut self.form {
                Form::Dense(values, _) => self.dtype.read(these, values),
                Form::Packed(packer, _) => packer.push(these),
            }
            bytes = others;
        }
        Ok(())
    }

    /// Bytes of the piece that are still to come.
    fn missing(&self) -> usize {
        match &self.form {
            Form::Dense(values, _) => {
                (self.piece.numbers.len() - values.len()) / self.dtype.block() * self.dtype.block_bytes()
            }
            Form::Packed(packer, _) => packer.missing(),
        }
    }

    /// Gives the piece to the device.
    fn send(&mut self) {
        let (device, Piece { numbers, of }) = (&self.place.device, &self.piece);
        match &mut self.form {
            Form::Dense(values, parts) => fill(parts, std::mem::take(values), numbers.start, *of, device),
            Form::Packed(packer, parts) => {
                let (length, runs) = packer.finish(numbers.start, *of);
                runs.into_iter().for_each(|(at, words)| fill(parts, words, at, length, device));
            }
        }
    }

    /// The tensor on its device.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if bytes are missing; [`Error::Device`].
    pub fn finish(mut self) -> Result<Placed> {
        if !self.rest.is_empty() || self.missing() > 0 || self.pieces.len() > 0 {
            return Err(self.wrong_length());
        }
        self.send();
        let placed = match self.form {
            Form::Dense(_, mut parts) => {
                let tensor = parts.pop().expect("sent above");
                match self.place.shape.len() {
                    1 => Placed::D1(self.place.tensor(tensor)),
                    2 => Placed::D2(self.place.tensor(tensor)),
                    3 => Placed::D3(self.place.tensor(tensor)),
                    _ => Placed::D4(self.place.tensor(tensor)),
                }
            }
            Form::Packed(_, parts) => Placed::Packed(parts),
        };
        self.place.flush()?;
        Ok(placed)
    }

    fn wrong_length(&self) -> Error {
        let why = format!("its bytes are not {:?} numbers of type {}", self.place.shape, self.dtype);
        Error::Corrupt { what: "tensor data".into(), why }
    }
}

/// The pieces of a part of `of` numbers; one at least.
fn pieces(of: usize, at_once: usize) -> impl Iterator<Item = Piece> {
    let start = move |piece: usize| piece.saturating_mul(at_once).min(of);
    (0..of.div_ceil(at_once).max(1)).map(move |piece| Piece { numbers: start(piece)..start(piece + 1), of })
}

/// Memory for so many numbers.
fn room(count: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Error::Corrupt {
        what: "tensor data".into(),
        why: format!("{count} numbers do not fit into memory"),
    })?;
    Ok(values)
}

/// Writes `values` into the last of `parts`, from its element `at` on; from 0 on, into a new one of `of` elements.
fn fill<E: Element, K: Basic>(parts: &mut Vec<Tensor<1, K>>, values: Vec<E>, at: usize, of: usize, device: &Device) {
    let (count, options) = (values.len(), (device, E::dtype()));
    let piece = Tensor::from_data(TensorData::new(values, [count]), options);
    let part = match parts.pop_if(|_| at > 0) {
        None if count == of => piece,
        part => part.unwrap_or_else(|| Tensor::empty([of], options)).slice_assign(at..at + count, piece),
    };
    parts.push(part);
}

impl Place {
    /// How many numbers that are kept as `dtype` the device is given at once. Two blocks' scales are a word, which is copied on
    /// its way there.
    fn at_once(&self, dtype: GgmlType) -> usize {
        if self.device.clone().inner() == Device::flex() {
            // It keeps them in the memory in which they come.
            return usize::MAX;
        }
        PIECE / (dtype.byte_len(2 * BLOCK).expect("whole blocks") + 4) * 2 * BLOCK
    }

    /// Sends what was given to the device on its way: what waits for that waits in memory.
    fn flush(&self) -> Result<()> {
        self.device.flush().map_err(|error| Error::Device(format!("{error:?}")))
    }

    /// A tensor in the shape that the network has it in.
    fn tensor<const D: usize>(&self, numbers: Tensor<1>) -> Tensor<D> {
        let tensor = numbers.reshape(Shape::from(self.shape.clone()));
        if self.linear { tensor.transpose() } else { tensor }
    }
}

/// Finds out what a network needs.
struct Places {
    path: Path,
    /// The weight beside whose packed form the walk stood last, and the parts of that.
    packable: (String, usize),
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
        let parts = if self.packable.0 == name { self.packable.1 } else { 0 };
        self.places.insert(name, Place { shape, linear, parts, device: param.lazy_device() });
    }

    fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
        if let Some((name, part)) = self.path.packed_part() {
            self.packable = (name, part + 1);
        }
    }
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
        let Some((name, part)) = self.path.packed_part() else {
            return param;
        };
        let (id, device) = (param.id, param.lazy_device());
        match self.placed.get(&name) {
            Some(Placed::Packed(parts)) => {
                param.transform_for_load(Tensor::from_dispatch(parts[part].clone().into_dispatch()), id)
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
    /// The parts of the packed form of the weight that comes next, if it has one.
    packed: Vec<Vec<u32>>,
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
        if self.path.packed_part().is_some() && param.lazy_shape().num_elements() > 0 {
            self.packed.push(param.val().into_data().try_to_vec().expect("packed weights are words"));
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let parts = std::mem::take(&mut self.packed);
        let (shape, values) = match parts.len() {
            1.. => {
                let mut shape = param.lazy_shape().to_vec();
                if self.path.is_linear() {
                    shape.reverse();
                }
                let mut values = vec![0.0; shape.iter().product()];
                let columns = values.len() / shape[0];
                for (words, rows) in parts.iter().zip(split(shape[0], parts.len())) {
                    let part = &mut values[rows.start * columns..rows.end * columns];
                    Blocks::new(words, part.len()).expect("as many words as the shape needs").read(0, part);
                }
                (shape, values)
            }
            0 => {
                let value = if self.path.is_linear() { param.val().transpose() } else { param.val() };
                let values = value.to_data().convert::<f32>().try_to_vec::<f32>().expect("converted to f32 above");
                (value.dims().to_vec(), values)
            }
        };
        self.tensors.push((self.path.name(), shape, values));
    }
}
