//! The layers that networks are made of and whose weights may stay quantized: burn's, with packed weights beside.
//!
//! A layer is trained, initialized and configured as burn's: `LinearConfig::new(64, 64).init(&device).into()`. Where
//! [`load`](crate::weights::load) finds its weight in a quantized type, the layer takes the blocks
//! as they are, and burn's own weight, which nothing has asked for yet, is never allocated.

use super::{kernels, precision::in_f32};
use burn::{
    module::{Module, Param, ParamId},
    nn,
    tensor::{Device, Int, Tensor},
};

/// A linear layer.
pub type Linear = Packable<nn::Linear>;
/// A two-dimensional convolution.
pub type Conv2d = Packable<nn::conv::Conv2d>;
/// A table of embeddings.
pub type Embedding = Packable<nn::Embedding>;

/// A layer of burn's whose weight may be [packed](crate::weights::packed).
#[derive(Module, Debug)]
pub struct Packable<L: Module> {
    /// The packed weight, row after row as in a file; empty if the weight is `layer`'s own.
    packed: Param<Tensor<1, Int>>,
    /// burn's layer. Its weight is of no meaning while there is a packed one, but has its shape.
    pub layer: L,
}

impl<L: Module> Packable<L> {
    fn new(layer: L, device: Device) -> Self {
        let empty = |device: &Device, _| Tensor::zeros([0], device);
        Self { packed: Param::uninitialized(ParamId::new(), empty, device, false, [0].into()), layer }
    }

    /// The packed weight, if there is one.
    pub(super) fn packed(&self) -> Option<Tensor<1, Int>> {
        self.is_packed().then(|| self.packed.val())
    }

    /// Whether the weight is kept quantized.
    pub fn is_packed(&self) -> bool {
        self.packed.lazy_shape()[0] > 0
    }
}

impl From<nn::Linear> for Linear {
    fn from(layer: nn::Linear) -> Self {
        let device = layer.weight.lazy_device();
        Self::new(layer, device)
    }
}

impl From<nn::conv::Conv2d> for Conv2d {
    fn from(layer: nn::conv::Conv2d) -> Self {
        let device = layer.weight.lazy_device();
        Self::new(layer, device)
    }
}

impl From<nn::Embedding> for Embedding {
    fn from(layer: nn::Embedding) -> Self {
        let device = layer.weight.lazy_device();
        Self::new(layer, device)
    }
}

impl Linear {
    /// `x W + b` along the last axis: `[.., input]` to `[.., output]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let Some(packed) = self.packed() else {
            return in_f32(x, |x| self.layer.forward(x));
        };
        let [input, output] = self.layer.weight.lazy_shape().dims();
        let mut shape = x.dims();
        let rows = x.shape().num_elements() / input;
        let y = kernels::multiply(x.reshape([rows, input]), packed, output);
        shape[D - 1] = output;
        let y = y.reshape(shape);
        match &self.layer.bias {
            Some(bias) => {
                let bias = bias.val().cast(y.dtype()).unsqueeze();
                y + bias
            }
            None => y,
        }
    }
}

impl Conv2d {
    /// `x`: `[batch, input, height, width]`; answers `[batch, output, out_height, out_width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        kernels::convolve(self, x)
    }
}

impl Embedding {
    /// The rows that `ids`, `[batch, tokens]`, name: `[batch, tokens, features]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let Some(packed) = self.packed() else {
            return self.layer.forward(ids);
        };
        let ([batch, tokens], shape) = (ids.dims(), self.layer.weight.lazy_shape().dims());
        kernels::look_up(packed, shape, ids.flatten(0, 1)).reshape([batch, tokens, shape[1]])
    }
}
