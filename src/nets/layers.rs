//! The layers that networks are made of and whose weights may stay quantized: burn's, with packed weights beside.
//!
//! A layer is trained, initialized and configured as burn's: `LinearConfig::new(64, 64).init(&device).into()`. Where
//! [`load`](crate::weights::load) finds its weight in a quantized type, the layer takes the blocks
//! as they are, and burn's own weight, which nothing has asked for yet, is never allocated.

use super::{kernels, precision::in_f32};
use crate::weights::packed::{LARGEST_BINDING, parts, split};
use burn::{
    module::{Module, Param, ParamId},
    nn,
    tensor::{Device, Int, Tensor},
};
use std::ops::Range;

/// A linear layer.
pub type Linear = Packable<nn::Linear>;
/// A two-dimensional convolution.
pub type Conv2d = Packable<nn::conv::Conv2d>;
/// A table of embeddings.
pub type Embedding = Packable<nn::Embedding>;

/// A layer of burn's whose weight may be [packed](crate::weights::packed).
#[derive(Module, Debug)]
pub struct Packable<L: Module> {
    /// The packed weight, row after row as in a file, in parts of whole rows; empty if the weight is `layer`'s own.
    packed: Vec<Param<Tensor<1, Int>>>,
    /// burn's layer. Its weight is of no meaning while there is a packed one, but has its shape.
    pub layer: L,
}

impl<L: Module> Packable<L> {
    /// `layer` with a weight of `rows` of `columns` numbers, kept in parts of at most `limit` bytes each.
    fn new(layer: L, [rows, columns]: [usize; 2], device: &Device, limit: usize) -> Self {
        let empty = |device: &Device, _| Tensor::zeros([0], device);
        let empty = || Param::uninitialized(ParamId::new(), empty, device.clone(), false, [0].into());
        Self { packed: (0..parts(rows, columns, limit)).map(|_| empty()).collect(), layer }
    }

    /// The parts of the packed weight of so many rows, and their rows, if there is one.
    pub(super) fn packed(&self, rows: usize) -> Option<Vec<(Tensor<1, Int>, Range<usize>)>> {
        let parts = || self.packed.iter().map(Param::val).zip(split(rows, self.packed.len()));
        self.is_packed().then(|| parts().collect())
    }

    /// Whether the weight is kept quantized or in parts.
    pub fn is_packed(&self) -> bool {
        self.packed.iter().any(|part| part.lazy_shape()[0] > 0)
    }
}

/// The limit of a device.
fn limit(device: &Device) -> usize {
    if *device == Device::flex() { usize::MAX } else { LARGEST_BINDING }
}

impl From<nn::Linear> for Linear {
    fn from(layer: nn::Linear) -> Self {
        let limit = limit(&layer.weight.lazy_device());
        Self::within(layer, limit)
    }
}

impl From<nn::conv::Conv2d> for Conv2d {
    fn from(layer: nn::conv::Conv2d) -> Self {
        let limit = limit(&layer.weight.lazy_device());
        Self::within(layer, limit)
    }
}

impl From<nn::Embedding> for Embedding {
    fn from(layer: nn::Embedding) -> Self {
        let limit = limit(&layer.weight.lazy_device());
        Self::within(layer, limit)
    }
}

impl Linear {
    /// `layer`, its weight in parts if it takes more than `limit` bytes.
    pub fn within(layer: nn::Linear, limit: usize) -> Self {
        let ([input, output], device) = (layer.weight.lazy_shape().dims(), layer.weight.lazy_device());
        Self::new(layer, [output, input], &device, limit)
    }

    /// `x W + b` along the last axis: `[.., input]` to `[.., output]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [input, output] = self.layer.weight.lazy_shape().dims();
        let Some(parts) = self.packed(output) else {
            return in_f32(x, |x| self.layer.forward(x));
        };
        let mut shape = x.dims();
        let rows = x.shape().num_elements() / input;
        let x = x.reshape([rows, input]);
        let y = parts.into_iter().map(|(part, rows)| kernels::multiply(x.clone(), part, rows.len()));
        shape[D - 1] = output;
        let y = joined(y, 1).reshape(shape);
        match &self.layer.bias {
            Some(bias) => {
                let bias = bias.val().cast(y.dtype()).unsqueeze();
                y + bias
            }
            None => y,
        }
    }
}

/// The parts side by side along an axis.
pub(super) fn joined<const D: usize>(parts: impl Iterator<Item = Tensor<D>>, axis: usize) -> Tensor<D> {
    let mut parts: Vec<_> = parts.collect();
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, axis) }
}

impl Conv2d {
    /// `layer`, its weight in parts if it takes more than `limit` bytes.
    pub fn within(layer: nn::conv::Conv2d, limit: usize) -> Self {
        let (shape, device) = (layer.weight.lazy_shape(), layer.weight.lazy_device());
        Self::new(layer, [shape[0], shape[1..].iter().product()], &device, limit)
    }

    /// `x`: `[batch, input, height, width]`; answers `[batch, output, out_height, out_width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        kernels::convolve(self, x)
    }
}

impl Embedding {
    /// `layer`, its weight in parts if it takes more than `limit` bytes.
    pub fn within(layer: nn::Embedding, limit: usize) -> Self {
        let (shape, device) = (layer.weight.lazy_shape().dims(), layer.weight.lazy_device());
        Self::new(layer, shape, &device, limit)
    }

    /// The rows that `ids`, `[batch, tokens]`, name: `[batch, tokens, features]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [rows, columns] = self.layer.weight.lazy_shape().dims();
        let Some(parts) = self.packed(rows) else {
            return self.layer.forward(ids);
        };
        let [batch, tokens] = ids.dims();
        let ids: Tensor<1, Int> = ids.flatten(0, 1);
        let found = parts.into_iter().fold(None, |found: Option<Tensor<2>>, (part, rows)| {
            let (first, count) = (rows.start as i64, rows.len());
            // Every part is asked for every id; what it answers for other parts' ids does not count.
            let within =
                if self.packed.len() == 1 { ids.clone() } else { (ids.clone() - first).clamp(0, count as i64 - 1) };
            let here = kernels::look_up(part, [count, columns], within);
            Some(match found {
                None => here,
                Some(found) => {
                    let own = ids.clone().greater_equal_elem(first).unsqueeze_dim::<2>(1).expand(found.dims());
                    found.mask_where(own, here)
                }
            })
        });
        found.expect("at least one part").reshape([batch, tokens, columns])
    }
}
