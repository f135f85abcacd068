//! Operations that dominate the networks, computed by kernels of our own: three on the CPU, and those on quantized
//! weights ([`packed`]) everywhere.
//!
//! burn's CPU backend convolves sample by sample, differentiates convolutions as convolutions, and spreads a
//! normalization or an activation over many passes. The kernels here gather whole batches into one matrix product, save
//! multiplications where the kernel is 3x3, and fuse the passes, forward and backward. On every other device the same formulas run as tensor operations.
//!
//! Measured on the training step of the `emoji` UNet (`tests/unet.rs`, `speed`).

mod gpu;
mod packed;
mod winograd;

use super::{
    layers::{Conv2d, joined},
    precision::in_f32,
};
use crate::weights::packed::Blocks;
use burn::{
    backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor},
    module::Param,
    nn::{self, GroupNorm, PaddingConfig2d},
    tensor::{
        DType, Device, Tensor, TensorData,
        activation::{gelu, relu, silu, softmax},
        module::attention,
        ops::AttentionModuleOptions,
    },
};
use std::{cell::RefCell, ops::Range};
use winograd::Winograd;

pub use packed::{look_up, multiply};

/// `conv(x)`, the layer's forward.
///
/// `x`: `[batch, input, height, width]`; answers `[batch, output, out_height, out_width]`.
pub fn convolve(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let layer = &conv.layer;
    let shape: [usize; 4] = layer.weight.lazy_shape().dims();
    let window = Window::of(layer);
    let square = window.and_then(Window::square).filter(|&(stride, padding)| fits(&x, shape, stride, padding));
    let on_cpu = on_cpu(&x);
    let bias = |x: &Tensor<4>| match &layer.bias {
        Some(bias) => bias.val(),
        None => Tensor::zeros([shape[0]], &x.device()),
    };
    let Some(parts) = conv.packed(shape[0]) else {
        let Some((stride, padding)) = square.filter(|_| on_cpu) else {
            return in_f32(x, |x| layer.forward(x));
        };
        let bias = bias(&x).into_dispatch();
        let (x, weight) = (x.into_dispatch(), layer.weight.val().into_dispatch());
        return Tensor::from_dispatch(Dispatch::convolve(x, weight, bias, stride, padding));
    };
    match window {
        // The CPU's kernels are of square windows.
        Some(window) if !on_cpu || square.is_some() => {
            let bias = bias(&x);
            let convolved = parts.into_iter().map(|(part, rows)| {
                packed::convolve(x.clone(), part, bias.clone().slice([rows.clone()]), window, rows.len())
            });
            joined(convolved, 1)
        }
        _ => {
            let numbers = parts.into_iter().map(|(part, rows)| {
                let ids = Tensor::arange(0..rows.len() as i64, &x.device());
                look_up(part, [rows.len(), shape[1..].iter().product()], ids)
            });
            let weight = joined(numbers, 0).reshape(shape);
            let layer = nn::conv::Conv2d { weight: Param::from_tensor(weight), ..layer.clone() };
            in_f32(x, |x| layer.forward(x))
        }
    }
}

/// What a convolution does to the pixels' grid: top, left, bottom and right padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 4],
}

impl Window {
    /// The layer's, unless it has groups, dilation or a padding that depends on the input.
    fn of(layer: &nn::conv::Conv2d) -> Option<Self> {
        let padding = match layer.padding {
            PaddingConfig2d::Valid => [0; 4],
            PaddingConfig2d::Explicit(top, left, bottom, right) => [top, left, bottom, right],
            PaddingConfig2d::Same => return None,
        };
        let plain = layer.groups == 1 && layer.dilation == [1, 1];
        plain.then_some(Self { kernel: layer.kernel_size, stride: layer.stride, padding })
    }

    /// Stride and padding where they and the kernel are the same along both axes and on all sides.
    fn square(self) -> Option<(usize, usize)> {
        let Self { kernel, stride, padding, .. } = self;
        let same = kernel[0] == kernel[1] && stride[0] == stride[1] && padding == [padding[0]; 4];
        same.then_some((stride[0], padding[0]))
    }

    /// Height and width of the output of a map of this height and width.
    fn output(self, [height, width]: [usize; 2]) -> [usize; 2] {
        let [top, left, bottom, right] = self.padding;
        let size =
            |axis: usize, padded: usize| (padded + 1).saturating_sub(self.kernel[axis]).div_ceil(self.stride[axis]);
        [size(0, height + top + bottom), size(1, width + left + right)]
    }
}

/// `group_norm(x) (1 + scale) + shift`, followed by SiLU if `activate`.
///
/// `x`: `[batch, channels, height, width]`, `modulation`: scale and shift, each `[batch, channels]`, of time-conditional
/// layers; answers the shape of `x`.
pub fn normalize(
    norm: &GroupNorm,
    x: Tensor<4>,
    modulation: Option<(Tensor<2>, Tensor<2>)>,
    activate: bool,
) -> Tensor<4> {
    let (Some(gamma), Some(beta), true) = (&norm.gamma, &norm.beta, on_cpu(&x)) else {
        return in_f32(x, |x| {
            let h = norm.forward(x);
            let h = match modulation {
                Some((scale, shift)) => {
                    h * (scale.unsqueeze_dims::<4>(&[2, 3]) + 1.0) + shift.unsqueeze_dims::<4>(&[2, 3])
                }
                None => h,
            };
            if activate { silu(h) } else { h }
        });
    };
    let [batch, channels, _, _] = x.dims();
    let (gamma, beta) = (gamma.val().unsqueeze::<2>(), beta.val().unsqueeze::<2>());
    let (scale, shift) = match modulation {
        Some((scale, shift)) => {
            let scale = scale + 1.0;
            (gamma * scale.clone(), beta * scale + shift)
        }
        None => (gamma.expand([batch, channels]), beta.expand([batch, channels])),
    };
    let (x, scale, shift) = (x.into_dispatch(), scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(Dispatch::normalize(x, scale, shift, norm.num_groups, norm.epsilon, activate))
}

/// `value * gelu(gate)` with `[value, gate] = x` along the last axis.
///
/// `x`: `[rows, 2 dim]`; answers `[rows, dim]`.
pub fn geglu(x: Tensor<2>) -> Tensor<2> {
    if on_cpu(&x) {
        return Tensor::from_dispatch(Dispatch::geglu(x.into_dispatch()));
    }
    let [value, gate] = x.chunk(2, 1).try_into().expect("an even number of features, halved");
    value * gelu(gate)
}

/// `softmax(q k^T / sqrt(dim)) v`.
///
/// `query`: `[batch, heads, positions, dim]`; `key` and `value`: `[batch, heads, tokens, dim]`; answers the shape of `query`.
pub fn attend(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    if query.dtype() == DType::F16 {
        let [_, _, _, dim] = query.dims();
        let scores = (query / (dim as f64).sqrt()).matmul(key.swap_dims(2, 3));
        return in_f32(scores, |scores| softmax(scores, 3)).matmul(value);
    }
    attention(query, key, value, None, None, AttentionModuleOptions::default())
}

/// `max(x, 0)`.
pub fn rectify(x: Tensor<4>) -> Tensor<4> {
    if x.dtype() == DType::F16 {
        // What overflowed must not become zero: an infinite `x`, of whatever sign, stays infinite or becomes no number.
        return x.clone() * 0.5 + x.abs() * 0.5;
    }
    relu(x)
}

fn on_cpu<const D: usize>(x: &Tensor<D>) -> bool {
    x.device() == Device::flex() && x.dtype() == DType::F32
}

/// Whether a kernel takes the convolution: the columns of one sample must stay small, unless Winograd's tiles do it.
fn fits(x: &Tensor<4>, weight: [usize; 4], stride: usize, padding: usize) -> bool {
    let geometry = Geometry::new(x.dims(), weight, stride, padding);
    geometry.taps() * geometry.pixels() <= 1 << 22 || geometry.is_winograd()
}

/// The kernels. `scale` and `shift` are `[batch, channels]`.
#[backend_extension(Flex, Autodiff: cfg(feature = "train"))]
trait CpuKernels: Backend {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        stride: usize,
        padding: usize,
    ) -> FloatTensor<Self>;
    fn normalize(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        activate: bool,
    ) -> FloatTensor<Self>;
    fn geglu(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

type Array = FloatTensor<Flex>;

impl CpuKernels for Flex {
    fn convolve(x: Array, weight: Array, bias: Array, stride: usize, padding: usize) -> Array {
        let geometry = Geometry::of(&x, &weight, stride, padding);
        geometry.forward(&x.to_contiguous(), Rows::Dense(weight.to_contiguous().storage()), &bias.to_contiguous())
    }

    fn normalize(x: Array, scale: Array, shift: Array, groups: usize, epsilon: f64, activate: bool) -> Array {
        Normalization::new(&x, &scale, &shift, groups, epsilon, activate).0
    }

    fn geglu(x: Array) -> Array {
        geglu_forward(&x.to_contiguous())
    }
}

fn array<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Array {
    Array::from_data(TensorData::new(values, shape))
}

fn sizes<const D: usize>(x: &Array) -> [usize; D] {
    x.layout().shape().dims()
}

/// Calls `work(i, chunk)` on the `i`-th piece of `size` of `values`, in parallel where there are threads. A closure that
/// is inlined is compiled for the vector instructions of the machine it runs on.
fn each_chunk(values: &mut [f32], size: usize, work: impl Fn(usize, &mut [f32]) + Send + Sync) {
    each_chunk_of_two(
        values,
        size,
        &mut [],
        0,
        #[inline(always)]
        |i, chunk, _| work(i, chunk),
    );
}

/// [`each_chunk`] of two arrays at once; `small` may be empty.
fn each_chunk_of_two(
    large: &mut [f32],
    size: usize,
    small: &mut [f32],
    small_size: usize,
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Send + Sync,
) {
    let mut small = small.chunks_mut(small_size.max(1));
    let pieces: Vec<_> =
        large.chunks_mut(size).enumerate().map(|(i, chunk)| (i, chunk, small.next().unwrap_or_default())).collect();
    let work = |(i, chunk, small)| pulp::Arch::new().dispatch(Piece { work: &work, i, chunk, small });
    #[cfg(not(target_arch = "wasm32"))]
    rayon::iter::ParallelIterator::for_each(rayon::iter::IntoParallelIterator::into_par_iter(pieces), work);
    #[cfg(target_arch = "wasm32")]
    pieces.into_iter().for_each(work);
}

/// A call of `work`, compiled for each set of vector instructions that the machine may have.
struct Piece<'a, F> {
    work: &'a F,
    i: usize,
    chunk: &'a mut [f32],
    small: &'a mut [f32],
}

impl<F: Fn(usize, &mut [f32], &mut [f32])> pulp::WithSimd for Piece<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        (self.work)(self.i, self.chunk, self.small);
    }
}

/// Matrices within a slice: element `(i, j)` of matrix `p` lies at `[p, i, j]` times `strides`.
#[derive(Clone, Copy)]
struct Matrices<'a> {
    values: &'a [f32],
    count: usize,
    rows: usize,
    columns: usize,
    strides: [usize; 3],
}

impl<'a> Matrices<'a> {
    /// One matrix, row after row.
    fn one(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { values, count: 1, rows, columns, strides: [0, columns, 1] }
    }

    /// Each of them transposed.
    fn transposed(self) -> Self {
        let [matrix, row, column] = self.strides;
        Self { rows: self.columns, columns: self.rows, strides: [matrix, column, row], ..self }
    }

    /// `self b` for each pair, written to, or added to, `y`: `[count, rows, columns]`.
    fn multiply(self, b: Self, add: bool, y: &mut [f32]) {
        let (m, k, n) = (self.rows, self.columns, b.columns);
        assert_eq!((b.count, b.rows), (self.count, k), "factors that belong together");
        assert_eq!(y.len(), self.count * m * n, "the size of the product");
        for factor in [self, b] {
            let last = [factor.count - 1, factor.rows - 1, factor.columns - 1];
            let last: usize = last.iter().zip(factor.strides).map(|(i, stride)| i * stride).sum();
            assert!(last < factor.values.len(), "a matrix within its slice");
        }
        #[cfg(not(target_arch = "wasm32"))]
        let parallelism = if self.count == 1 { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
        #[cfg(target_arch = "wasm32")]
        let parallelism = gemm::Parallelism::None;
        each_chunk(y, m * n, |p, y| {
            let (a, a_strides) = (&self.values[p * self.strides[0]..], self.strides.map(|stride| stride as isize));
            let (b, b_strides) = (&b.values[p * b.strides[0]..], b.strides.map(|stride| stride as isize));
            // SAFETY: `y` is exactly the m x n product; the last element of either factor, and so every other, was
            // found to lie within its slice above; and `y` is borrowed mutably, so that it overlaps neither.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    y.as_mut_ptr(),
                    1,
                    n as isize,
                    add,
                    a.as_ptr(),
                    a_strides[2],
                    a_strides[1],
                    b.as_ptr(),
                    b_strides[2],
                    b_strides[1],
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        });
    }
}

/// Memory to work in, kept from call to call: asking the system for these megabytes anew, and clearing them, took a
/// quarter of a training step.
struct Scratch(Vec<f32>);

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    /// Most values that are kept (16 MiB).
    const KEPT: usize = 1 << 22;

    /// `length` values of whatever was there before.
    fn new(length: usize) -> Self {
        let mut values = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
        values.resize(length, 0.0);
        Self(values)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.0);
        if values.capacity() <= Self::KEPT {
            SCRATCH.with_borrow_mut(|kept| kept.push(values));
        }
    }
}

/// The rows of a matrix of weights: numbers, or blocks that become numbers where they are read.
#[derive(Clone, Copy)]
enum Rows<'a> {
    Dense(&'a [f32]),
    Packed(Blocks<'a>),
}

impl Rows<'_> {
    /// Calls `work` with the numbers of some of the rows, each `length` long.
    #[inline(always)]
    fn with<T>(&self, rows: Range<usize>, length: usize, work: impl FnOnce(&[f32]) -> T) -> T {
        match self {
            Self::Dense(numbers) => work(&numbers[rows.start * length..rows.end * length]),
            Self::Packed(blocks) => {
                let mut numbers = Scratch::new(rows.len() * length);
                if rows.len() == 1 {
                    blocks.read(rows.start * length, &mut numbers.0);
                } else {
                    each_chunk(
                        &mut numbers.0,
                        length,
                        #[inline(always)]
                        |row, numbers| blocks.read((rows.start + row) * length, numbers),
                    );
                }
                work(&numbers.0)
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Convolution: `y = W columns(x) + b`, one product for many samples

/// Pixels of one matrix product: enough for the product to be efficient, few enough for its columns to stay in cache.
const PIXELS_PER_PRODUCT: usize = 512;

/// The sizes of a convolution with a square kernel.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    batch: usize,
    /// Channels, height and width.
    input: [usize; 3],
    output: [usize; 3],
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Geometry {
    fn new(x: [usize; 4], weight: [usize; 4], stride: usize, padding: usize) -> Self {
        let ([batch, channels, height, width], [out, _, kernel, _]) = (x, weight);
        let size = |size: usize| (size + 2 * padding + 1).saturating_sub(kernel).div_ceil(stride);
        Self {
            batch,
            input: [channels, height, width],
            output: [out, size(height), size(width)],
            kernel,
            stride,
            padding,
        }
    }

    fn of(x: &Array, weight: &Array, stride: usize, padding: usize) -> Self {
        Self::new(sizes(x), sizes(weight), stride, padding)
    }

    /// Whether [`Winograd`] computes it.
    fn is_winograd(&self) -> bool {
        (self.kernel, self.stride, self.padding) == (3, 1, 1)
    }

    /// Weights that each output value sums over.
    fn taps(&self) -> usize {
        self.input[0] * self.kernel * self.kernel
    }

    /// Pixels of one output channel.
    fn pixels(&self) -> usize {
        self.output[1] * self.output[2]
    }

    /// The batch cut into the samples of one product each.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (batch, step) = (self.batch, (PIXELS_PER_PRODUCT / self.pixels()).max(1));
        (0..batch).step_by(step).map(move |first| first..(first + step).min(batch))
    }

    /// The outputs along an axis whose `tap` lies within the input, and the input of the first.
    fn seen(&self, tap: usize, input: usize, output: usize) -> (Range<usize>, usize) {
        let first = self.padding.saturating_sub(tap).div_ceil(self.stride);
        let end = (input + self.padding).saturating_sub(tap).div_ceil(self.stride).min(output);
        (first..end.max(first), (first * self.stride + tap).saturating_sub(self.padding))
    }

    /// Calls `row(start in a plane of the input, range in a plane of the output)` for each row that `tap` of the
    /// kernel sees; successive outputs see inputs a stride apart.
    #[inline(always)]
    fn each_row(&self, tap: usize, mut row: impl FnMut(usize, Range<usize>)) {
        let ([_, height, width], [_, out_height, out_width]) = (self.input, self.output);
        let (rows, top) = self.seen(tap / self.kernel, height, out_height);
        let (columns, left) = self.seen(tap % self.kernel, width, out_width);
        if columns.is_empty() {
            return;
        }
        for (i, y) in rows.enumerate() {
            let start = (top + i * self.stride) * width + left;
            row(start, y * out_width + columns.start..y * out_width + columns.end);
        }
    }

    /// What each output pixel of `samples` sees: `[taps, samples * pixels]`.
    fn columns(&self, x: &[f32], samples: Range<usize>) -> Scratch {
        let [channels, height, width] = self.input;
        let (taps, pixels) = (self.kernel * self.kernel, self.pixels());
        let n = samples.len() * pixels;
        let mut columns = Scratch::new(self.taps() * n);
        each_chunk(
            &mut columns.0,
            n,
            #[inline(always)]
            |row, columns| {
                let (channel, tap) = (row / taps, row % taps);
                if self.padding > 0 {
                    columns.fill(0.0);
                }
                for (sample, columns) in samples.clone().zip(columns.chunks_exact_mut(pixels)) {
                    let plane = &x[(sample * channels + channel) * height * width..][..height * width];
                    self.each_row(tap, |start, range| {
                        let columns = &mut columns[range];
                        if self.stride == 1 {
                            columns.copy_from_slice(&plane[start..start + columns.len()]);
                        } else {
                            columns
                                .iter_mut()
                                .zip(plane[start..].iter().step_by(self.stride))
                                .for_each(|(c, x)| *c = *x);
                        }
                    });
                }
            },
        );
        columns
    }

    /// Adds `columns`, laid out as [`Geometry::columns`] answers, back to the inputs of `samples` they came from.
    #[cfg(feature = "train")]
    fn scatter(&self, columns: &[f32], samples: Range<usize>, x: &mut [f32]) {
        let [channels, height, width] = self.input;
        let (taps, pixels) = (self.kernel * self.kernel, self.pixels());
        let n = samples.len() * pixels;
        let x = &mut x[samples.start * channels * height * width..samples.end * channels * height * width];
        each_chunk(
            x,
            height * width,
            #[inline(always)]
            |i, plane| {
                let (sample, channel) = (i / channels, i % channels);
                for tap in 0..taps {
                    let columns = &columns[(channel * taps + tap) * n + sample * pixels..][..pixels];
                    self.each_row(tap, |start, range| {
                        let plane = plane[start..].iter_mut().step_by(self.stride);
                        plane.zip(&columns[range]).for_each(|(x, c)| *x += c);
                    });
                }
            },
        );
    }

    /// `x` and `bias` are contiguous.
    fn forward(&self, x: &Array, weight: Rows<'_>, bias: &Array) -> Array {
        let [out, ..] = self.output;
        if self.is_winograd() {
            return Winograd::new(x, out).forward(x, weight, bias);
        }
        weight.with(0..out, self.taps(), |weight| self.forward_by_columns(x, weight, bias))
    }

    fn forward_by_columns(&self, x: &Array, weight: &[f32], bias: &Array) -> Array {
        let ([out, height, width], pixels) = (self.output, self.pixels());
        let weight = Matrices::one(weight, out, self.taps());
        let bias: &[f32] = bias.storage();
        let mut y = vec![0.0; self.batch * out * pixels];
        for samples in self.tiles() {
            let n = samples.len() * pixels;
            let columns = self.columns(x.storage(), samples.clone());
            let mut product = Scratch::new(out * n);
            weight.multiply(Matrices::one(&columns.0, self.taps(), n), false, &mut product.0);
            each_chunk(
                &mut y[samples.start * out * pixels..samples.end * out * pixels],
                pixels,
                #[inline(always)]
                |i, y| {
                    let (sample, channel) = (i / out, i % out);
                    let product = &product.0[channel * n + sample * pixels..][..pixels];
                    y.iter_mut().zip(product).for_each(|(y, p)| *y = p + bias[channel]);
                },
            );
        }
        array(y, [self.batch, out, height, width])
    }

    /// The gradients of `x` (if `wanted`), weight and bias, given that of `y`; all are contiguous.
    #[cfg(feature = "train")]
    fn backward(&self, x: &Array, weight: &Array, grad: &Array, wanted: bool) -> (Option<Array>, Array, Array) {
        if self.is_winograd() {
            return Winograd::new(x, self.output[0]).backward(x, Rows::Dense(weight.storage()), grad, wanted);
        }
        let ([channels, height, width], [out, ..], pixels) = (self.input, self.output, self.pixels());
        let grad: &[f32] = grad.storage();
        let weight = Matrices::one(weight.storage(), out, self.taps());
        let mut grad_x = vec![0.0; if wanted { self.batch * channels * height * width } else { 0 }];
        let mut grad_weight = vec![0.0; out * self.taps()];
        let mut grad_bias = vec![0.0; out];
        for samples in self.tiles() {
            let n = samples.len() * pixels;
            let mut rows = Scratch::new(out * n);
            each_chunk_of_two(
                &mut rows.0,
                n,
                &mut grad_bias,
                1,
                #[inline(always)]
                |channel, row, sum| {
                    for (sample, row) in samples.clone().zip(row.chunks_exact_mut(pixels)) {
                        row.copy_from_slice(&grad[(sample * out + channel) * pixels..][..pixels]);
                    }
                    sum[0] += total(row);
                },
            );
            let rows = Matrices::one(&rows.0, out, n);
            let mut columns = self.columns(x.storage(), samples.clone());
            rows.multiply(Matrices::one(&columns.0, self.taps(), n).transposed(), true, &mut grad_weight);
            if wanted {
                weight.transposed().multiply(rows, false, &mut columns.0);
                self.scatter(&columns.0, samples, &mut grad_x);
            }
        }
        let grad_x = wanted.then(|| array(grad_x, [self.batch, channels, height, width]));
        (grad_x, array(grad_weight, [out, channels, self.kernel, self.kernel]), array(grad_bias, [out]))
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Normalization: `y = act(x_hat scale + shift)`, `x_hat = (x - mean) / sqrt(variance + epsilon)` over each group

/// What the gradient of a normalization needs of its forward.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "train"), allow(dead_code))]
struct Normalization {
    x: Array,
    scale: Array,
    shift: Array,
    /// Mean and reciprocal standard deviation of each sample's groups.
    statistics: Vec<f32>,
    activate: bool,
}

impl Normalization {
    /// The result, and what its gradient needs.
    fn new(x: &Array, scale: &Array, shift: &Array, groups: usize, epsilon: f64, activate: bool) -> (Array, Self) {
        let (x, scale, shift) = (x.to_contiguous(), scale.to_contiguous(), shift.to_contiguous());
        let [batch, channels, height, width] = sizes(&x);
        let (pixels, per_group) = (height * width, channels / groups);
        let mut y = vec![0.0; batch * channels * pixels];
        let mut statistics = vec![0.0; 2 * batch * groups];
        let (inputs, scales, shifts): (&[f32], &[f32], &[f32]) = (x.storage(), scale.storage(), shift.storage());
        each_chunk_of_two(
            &mut y,
            per_group * pixels,
            &mut statistics,
            2,
            #[inline(always)]
            |group, y, statistics| {
                let inputs = &inputs[group * y.len()..][..y.len()];
                let mean = total(inputs) / inputs.len() as f32;
                y.iter_mut().zip(inputs).for_each(|(y, x)| *y = (x - mean) * (x - mean));
                let deviation = (total(y) / inputs.len() as f32 + epsilon as f32).sqrt().recip();
                statistics.copy_from_slice(&[mean, deviation]);
                for (i, (y, x)) in y.chunks_exact_mut(pixels).zip(inputs.chunks_exact(pixels)).enumerate() {
                    let (slope, offset) = affine(scales, shifts, group * per_group + i, statistics);
                    if activate {
                        y.iter_mut().zip(x).for_each(|(y, x)| {
                            let z = slope * x + offset;
                            *y = z * sigmoid(z);
                        });
                    } else {
                        y.iter_mut().zip(x).for_each(|(y, x)| *y = slope * x + offset);
                    }
                }
            },
        );
        let y = array(y, [batch, channels, height, width]);
        (y, Self { x, scale, shift, statistics, activate })
    }

    /// The gradients of `x`, scale and shift, given that of `y`.
    #[cfg(feature = "train")]
    fn backward(&self, grad: &Array) -> [Array; 3] {
        let [batch, channels, height, width] = sizes(&self.x);
        let pixels = height * width;
        let groups = self.statistics.len() / 2 / batch;
        let per_group = channels / groups;
        let (inputs, grads): (&[f32], &[f32]) = (self.x.storage(), grad.storage());
        let (scales, shifts): (&[f32], &[f32]) = (self.scale.storage(), self.shift.storage());
        let mut grad_x = vec![0.0; inputs.len()];
        // For each channel of each sample the gradients of scale and shift.
        let mut sums = vec![0.0; 2 * batch * channels];
        each_chunk_of_two(
            &mut grad_x,
            per_group * pixels,
            &mut sums,
            2 * per_group,
            #[inline(always)]
            |group, grad_x, sums| {
                let statistics = &self.statistics[2 * group..][..2];
                let (mean, deviation) = (statistics[0], statistics[1]);
                let size = grad_x.len();
                let (inputs, grads) = (&inputs[group * size..][..size], &grads[group * size..][..size]);
                // Sums over the group of the gradient of x_hat, plain and times x_hat.
                let (mut plain, mut weighted) = (0.0, 0.0);
                for i in 0..per_group {
                    let range = i * pixels..(i + 1) * pixels;
                    let (grad_z, x, grad) = (&mut grad_x[range.clone()], &inputs[range.clone()], &grads[range]);
                    let (slope, offset) = affine(scales, shifts, group * per_group + i, statistics);
                    if self.activate {
                        grad_z.iter_mut().zip(x).zip(grad).for_each(|((grad_z, x), grad)| {
                            let z = slope * x + offset;
                            let gate = sigmoid(z);
                            *grad_z = grad * gate * (1.0 + z * (1.0 - gate));
                        });
                    } else {
                        grad_z.copy_from_slice(grad);
                    }
                    let shift = total(grad_z);
                    let scale = (dot(grad_z, x) - mean * shift) * deviation;
                    sums[2 * i..][..2].copy_from_slice(&[scale, shift]);
                    plain += scales[group * per_group + i] * shift;
                    weighted += scales[group * per_group + i] * scale;
                }
                let tilt = -deviation * deviation * weighted / size as f32;
                let level = -deviation * plain / size as f32 - mean * tilt;
                for (i, (grad_x, x)) in grad_x.chunks_exact_mut(pixels).zip(inputs.chunks_exact(pixels)).enumerate() {
                    let (slope, _) = affine(scales, shifts, group * per_group + i, statistics);
                    grad_x.iter_mut().zip(x).for_each(|(grad, x)| *grad = slope * *grad + tilt * x + level);
                }
            },
        );
        let side = |i: usize| array(sums.iter().skip(i).step_by(2).copied().collect(), [batch, channels]);
        [array(grad_x, [batch, channels, height, width]), side(0), side(1)]
    }
}

/// Slope and offset with which a channel's values become normalized, scaled and shifted.
#[inline(always)]
fn affine(scales: &[f32], shifts: &[f32], channel: usize, statistics: &[f32]) -> (f32, f32) {
    let slope = scales[channel] * statistics[1];
    (slope, shifts[channel] - statistics[0] * slope)
}

// ---------------------------------------------------------------------------------------------------------------------
// Gated linear unit: `value * gelu(gate)`, `gelu(x) = x Phi(x)`

fn geglu_forward(x: &Array) -> Array {
    let [rows, features] = sizes(x);
    let dim = features / 2;
    let inputs: &[f32] = x.storage();
    let mut y = vec![0.0; rows * dim];
    each_chunk(
        &mut y,
        dim,
        #[inline(always)]
        |row, y| {
            let (value, gate) = inputs[row * features..][..features].split_at(dim);
            y.iter_mut().zip(value).zip(gate).for_each(|((y, value), gate)| *y = value * gate * gaussian(*gate).0);
        },
    );
    array(y, [rows, dim])
}

#[cfg(feature = "train")]
fn geglu_backward(x: &Array, grad: &Array) -> Array {
    let [rows, features] = sizes(x);
    let dim = features / 2;
    let (inputs, grads): (&[f32], &[f32]) = (x.storage(), grad.storage());
    let mut grad_x = vec![0.0; rows * features];
    each_chunk(
        &mut grad_x,
        features,
        #[inline(always)]
        |row, grad_x| {
            let (value, gate) = inputs[row * features..][..features].split_at(dim);
            let (grad_value, grad_gate) = grad_x.split_at_mut(dim);
            let grads = &grads[row * dim..][..dim];
            let sides = grad_value.iter_mut().zip(grad_gate);
            sides.zip(value.iter().zip(gate)).zip(grads).for_each(
                |(((grad_value, grad_gate), (value, gate)), grad)| {
                    let (distribution, density) = gaussian(*gate);
                    *grad_value = grad * gate * distribution;
                    *grad_gate = grad * value * (distribution + gate * density);
                },
            );
        },
    );
    array(grad_x, [rows, features])
}

// ---------------------------------------------------------------------------------------------------------------------
// Arithmetic that the compiler can vectorize

/// `e^x` for `x` in -87..87, to 2 units in the last place: `2^n` from the bits, and a polynomial on `±ln(2) / 2`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let polynomial = 1.0 / 720.0;
    let polynomial = polynomial * r + 1.0 / 120.0;
    let polynomial = polynomial * r + 1.0 / 24.0;
    let polynomial = polynomial * r + 1.0 / 6.0;
    let polynomial = polynomial * r + 0.5;
    let polynomial = (polynomial * r + 1.0) * r + 1.0;
    polynomial * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()))
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The standard normal distribution function and density at `x`; the error function within it is Abramowitz and
/// Stegun's formula 7.1.26, exact to 1.5e-7.
#[inline(always)]
fn gaussian(x: f32) -> (f32, f32) {
    let bell = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let polynomial = 1.061_405_4;
    let polynomial = polynomial * t - 1.453_152;
    let polynomial = polynomial * t + 1.421_413_8;
    let polynomial = polynomial * t - 0.284_496_74;
    let polynomial = (polynomial * t + 0.254_829_6) * t;
    let tail = 0.5 * polynomial * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell * 0.398_942_3)
}

/// Sum in sixteen lanes.
#[inline(always)]
fn total(x: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let chunks = x.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    chunks.for_each(|chunk| lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += x));
    lanes.iter().sum::<f32>() + rest
}

/// Dot product in sixteen lanes.
#[cfg(feature = "train")]
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let (xs, ys) = (x.chunks_exact(16), y.chunks_exact(16));
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    xs.zip(ys).for_each(|(x, y)| lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += x * y));
    lanes.iter().sum::<f32>() + rest
}

// ---------------------------------------------------------------------------------------------------------------------
// Gradients

#[cfg(feature = "train")]
mod gradients {
    use super::*;
    use burn::backend::{
        Autodiff,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind, unary},
        },
    };

    #[derive(Debug)]
    struct Convolution;

    impl Backward<Flex, 3> for Convolution {
        type State = (Geometry, Array, Array);

        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let (geometry, x, weight) = ops.state;
            let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
            let [of_x, of_weight, of_bias] = ops.parents;
            let (grad_x, grad_weight, grad_bias) = geometry.backward(&x, &weight, &grad, of_x.is_some());
            let found = [(of_x, grad_x), (of_weight, Some(grad_weight)), (of_bias, Some(grad_bias))];
            for (node, grad) in found {
                if let (Some(node), Some(grad)) = (node, grad) {
                    grads.register::<Flex>(node.id, grad);
                }
            }
        }
    }

    #[derive(Debug)]
    struct Normalize;

    impl Backward<Flex, 3> for Normalize {
        type State = Normalization;

        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
            for (node, grad) in ops.parents.into_iter().zip(ops.state.backward(&grad)) {
                if let Some(node) = node {
                    grads.register::<Flex>(node.id, grad);
                }
            }
        }
    }

    #[derive(Debug)]
    struct Geglu;

    impl Backward<Flex, 1> for Geglu {
        type State = Array;

        fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            unary::<Flex, _>(ops.parents, ops.node, grads, |grad| geglu_backward(&ops.state, &grad.to_contiguous()));
        }
    }

    impl<C: CheckpointStrategy> CpuKernels for Autodiff<Flex, C> {
        fn convolve(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: FloatTensor<Self>,
            stride: usize,
            padding: usize,
        ) -> FloatTensor<Self> {
            let nodes = [x.node(), weight.node(), bias.node()];
            let (x, weight, bias) =
                (x.primitive().to_contiguous(), weight.primitive().to_contiguous(), bias.primitive().to_contiguous());
            let geometry = Geometry::of(&x, &weight, stride, padding);
            let y = geometry.forward(&x, Rows::Dense(weight.storage()), &bias);
            match Convolution.prepare::<C>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((geometry, x, weight), y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }

        fn normalize(
            x: FloatTensor<Self>,
            scale: FloatTensor<Self>,
            shift: FloatTensor<Self>,
            groups: usize,
            epsilon: f64,
            activate: bool,
        ) -> FloatTensor<Self> {
            let nodes = [x.node(), scale.node(), shift.node()];
            let (y, state) =
                Normalization::new(x.primitive(), scale.primitive(), shift.primitive(), groups, epsilon, activate);
            match Normalize.prepare::<C>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(state, y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }

        fn geglu(x: FloatTensor<Self>) -> FloatTensor<Self> {
            let node = x.node();
            let x = x.primitive().to_contiguous();
            let y = geglu_forward(&x);
            match Geglu.prepare::<C>([node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(x, y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    }
}
