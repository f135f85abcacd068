//! 3x3 convolutions with 16 multiplications for every 2x2 outputs instead of 36: Winograd's minimal filtering
//! F(2x2, 3x3) (Lavin & Gray 2015).
//!
//! An output tile is `A^T [ sum over channels of (G g G^T) * (B^T d B) ] A` for the 4x4 patch `d` that it sees. The sum
//! over channels is a matrix product for each of the 16 positions. Every map is linear, so that the gradients are the
//! transposed maps in the opposite order.

use super::{Array, Matrices, Scratch, array, each_chunk, sizes};
use std::ops::Range;

/// Tiles of one matrix product: enough for the product to be efficient, few enough for its operands to stay in cache.
const TILES_PER_PRODUCT: usize = 512;

/// Applies `f` to the rows of a patch, then to the columns of the result.
#[inline(always)]
fn both<const I: usize, const O: usize>(patch: [[f32; I]; I], f: impl Fn([f32; I]) -> [f32; O]) -> [[f32; O]; O] {
    let rows = patch.map(&f);
    let columns: [[f32; O]; O] = std::array::from_fn(|j| f(std::array::from_fn(|i| rows[i][j])));
    std::array::from_fn(|i| std::array::from_fn(|j| columns[j][i]))
}

/// `B^T d`: a patch of the input.
#[inline(always)]
fn input_map(d: [f32; 4]) -> [f32; 4] {
    [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
}

/// `A^T m`: the outputs of a tile.
#[inline(always)]
fn output_map(m: [f32; 4]) -> [f32; 2] {
    [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
}

/// `G g`: the kernel.
#[inline(always)]
fn kernel_map(g: [f32; 3]) -> [f32; 4] {
    let (even, odd) = (0.5 * (g[0] + g[2]), 0.5 * g[1]);
    [g[0], even + odd, even - odd, g[2]]
}

/// `B v`, the transpose of [`input_map`].
#[cfg(feature = "train")]
#[inline(always)]
fn input_map_transposed(v: [f32; 4]) -> [f32; 4] {
    [v[0], v[1] - v[2] + v[3], v[1] + v[2] - v[0], -v[3]]
}

/// `A y`, the transpose of [`output_map`].
#[cfg(feature = "train")]
#[inline(always)]
fn output_map_transposed(y: [f32; 2]) -> [f32; 4] {
    [y[0], y[0] + y[1], y[0] - y[1], -y[1]]
}

/// `G^T u`, the transpose of [`kernel_map`].
#[cfg(feature = "train")]
#[inline(always)]
fn kernel_map_transposed(u: [f32; 4]) -> [f32; 3] {
    let even = 0.5 * (u[1] + u[2]);
    [u[0] + even, 0.5 * (u[1] - u[2]), even + u[3]]
}

/// The 16 matrices of patches laid out as `[rows, 16, columns]`.
fn stacked(values: &[f32], rows: usize, columns: usize) -> Matrices<'_> {
    Matrices { values, count: 16, rows, columns, strides: [columns, 16 * columns, 1] }
}

/// A convolution of kernel 3, stride 1 and padding 1.
pub struct Winograd {
    batch: usize,
    channels: usize,
    out: usize,
    height: usize,
    width: usize,
}

impl Winograd {
    /// For an input and a weight of these shapes.
    pub fn new(x: &Array, weight: &Array) -> Self {
        let ([batch, channels, height, width], [out, ..]) = (sizes::<4>(x), sizes::<4>(weight));
        Self { batch, channels, out, height, width }
    }

    /// Rows of tiles in a sample.
    fn rows(&self) -> usize {
        self.height.div_ceil(2)
    }

    /// Tiles in a row.
    fn tiles(&self) -> usize {
        self.width.div_ceil(2)
    }

    /// The rows of tiles of the whole batch, cut into those of one product each.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, step) = (self.batch * self.rows(), TILES_PER_PRODUCT.div_ceil(self.tiles()));
        (0..rows).step_by(step).map(move |first| first..(first + step).min(rows))
    }

    /// The samples that a block touches.
    fn samples(&self, block: &Range<usize>) -> Range<usize> {
        block.start / self.rows()..(block.end - 1) / self.rows() + 1
    }

    /// For each row of tiles that `sample` has in `block`: its index in the block and in the sample.
    fn rows_of(&self, sample: usize, block: &Range<usize>) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (first, block) = (sample * self.rows(), block.clone());
        (block.start.max(first)..block.end.min(first + self.rows())).map(move |row| (row - block.start, row - first))
    }

    /// `G g G^T` of every kernel, `[out, 16, channels]`.
    fn kernels(&self, weight: &Array) -> Scratch {
        let weight = weight.to_contiguous();
        let weight: &[f32] = weight.storage();
        let mut kernels = Scratch::new(16 * self.out * self.channels);
        each_chunk(
            &mut kernels.0,
            16 * self.channels,
            #[inline(always)]
            |out, kernels| {
                let weight = weight[out * self.channels * 9..].chunks_exact(9);
                for (channel, g) in (0..self.channels).zip(weight) {
                    let patch = std::array::from_fn(|i| std::array::from_fn(|j| g[3 * i + j]));
                    write(kernels, channel, self.channels, both(patch, kernel_map));
                }
            },
        );
        kernels
    }

    /// `B^T d B` of every patch of `block`, `[channels, 16, tiles]`.
    fn patches(&self, x: &[f32], block: &Range<usize>) -> Scratch {
        let n = block.len() * self.tiles();
        let mut patches = Scratch::new(16 * self.channels * n);
        each_chunk(
            &mut patches.0,
            16 * n,
            #[inline(always)]
            |channel, patches| {
                // Four rows of the image with a border.
                let mut lines = vec![0.0; 4 * (2 * self.tiles() + 2)];
                let length = lines.len() / 4;
                for sample in self.samples(block) {
                    let plane = &x[(sample * self.channels + channel) * self.height * self.width..];
                    for (index, row) in self.rows_of(sample, block) {
                        for (i, line) in lines.chunks_exact_mut(length).enumerate() {
                            let line = &mut line[1..1 + self.width];
                            match (2 * row + i).checked_sub(1).filter(|y| *y < self.height) {
                                Some(y) => line.copy_from_slice(&plane[y * self.width..][..self.width]),
                                None => line.fill(0.0),
                            }
                        }
                        for tile in 0..self.tiles() {
                            let patch = std::array::from_fn(|i| read(&lines[i * length + 2 * tile..]));
                            write(patches, index * self.tiles() + tile, n, both(patch, input_map));
                        }
                    }
                }
            },
        );
        patches
    }

    /// The convolution: `x`: `[batch, channels, height, width]`, contiguous; `bias`: `[out]`, contiguous.
    pub fn forward(&self, x: &Array, weight: &Array, bias: &Array) -> Array {
        let kernels = self.kernels(weight);
        let bias: &[f32] = bias.storage();
        let pixels = self.height * self.width;
        let mut y = vec![0.0; self.batch * self.out * pixels];
        for block in self.blocks() {
            let n = block.len() * self.tiles();
            let patches = self.patches(x.storage(), &block);
            let mut products = Scratch::new(16 * self.out * n);
            let kernels = stacked(&kernels.0, self.out, self.channels);
            kernels.multiply(stacked(&patches.0, self.channels, n), false, &mut products.0);
            let products = &products.0;
            let samples = self.samples(&block);
            let touched = &mut y[samples.start * self.out * pixels..samples.end * self.out * pixels];
            each_chunk(
                touched,
                pixels,
                #[inline(always)]
                |i, plane| {
                    let (sample, out) = (samples.start + i / self.out, i % self.out);
                    for (index, row) in self.rows_of(sample, &block) {
                        let lines = &mut plane[2 * row * self.width..];
                        for tile in 0..self.tiles() {
                            let at = out * n + index * self.tiles() + tile;
                            let values = both(collect(products, at, self.out * n), output_map);
                            for (i, values) in values.iter().enumerate().take(self.height - 2 * row) {
                                for (j, value) in values.iter().enumerate().take(self.width - 2 * tile) {
                                    lines[i * self.width + 2 * tile + j] = value + bias[out];
                                }
                            }
                        }
                    }
                },
            );
        }
        array(y, [self.batch, self.out, self.height, self.width])
    }

    /// The gradients of `x` (if `wanted`), weight and bias, given that of the output.
    #[cfg(feature = "train")]
    pub fn backward(&self, x: &Array, weight: &Array, grad: &Array, wanted: bool) -> (Option<Array>, Array, Array) {
        let kernels = self.kernels(weight);
        let kernels = stacked(&kernels.0, self.out, self.channels);
        let grad: &[f32] = grad.storage();
        let pixels = self.height * self.width;
        let mut grad_x = vec![0.0; if wanted { self.batch * self.channels * pixels } else { 0 }];
        let mut grad_kernels = Scratch::new(16 * self.out * self.channels);
        for block in self.blocks() {
            let n = block.len() * self.tiles();
            let grad_products = self.grad_products(grad, &block);
            let grad_products = stacked(&grad_products.0, self.out, n);
            let mut patches = self.patches(x.storage(), &block);
            let transposed = stacked(&patches.0, self.channels, n).transposed();
            grad_products.multiply(transposed, block.start > 0, &mut grad_kernels.0);
            if wanted {
                kernels.transposed().multiply(grad_products, false, &mut patches.0);
                self.scatter(&patches.0, &block, &mut grad_x);
            }
        }
        let grad_kernels = &grad_kernels.0;
        let mut grad_weight = vec![0.0; self.out * self.channels * 9];
        each_chunk(
            &mut grad_weight,
            self.channels * 9,
            #[inline(always)]
            |out, weight| {
                for (channel, weight) in weight.chunks_exact_mut(9).enumerate() {
                    let kernel = collect(grad_kernels, out * self.channels + channel, self.out * self.channels);
                    weight.copy_from_slice(both(kernel, kernel_map_transposed).as_flattened());
                }
            },
        );
        let mut grad_bias = vec![0.0; self.out];
        each_chunk(
            &mut grad_bias,
            1,
            #[inline(always)]
            |out, bias| {
                bias[0] = (0..self.batch).map(|i| super::total(&grad[(i * self.out + out) * pixels..][..pixels])).sum();
            },
        );
        let shape = [self.batch, self.channels, self.height, self.width];
        let grad_weight = array(grad_weight, [self.out, self.channels, 3, 3]);
        (wanted.then(|| array(grad_x, shape)), grad_weight, array(grad_bias, [self.out]))
    }

    /// `A (gradient of the outputs) A^T` of every tile of `block`, `[out, 16, tiles]`.
    #[cfg(feature = "train")]
    fn grad_products(&self, grad: &[f32], block: &Range<usize>) -> Scratch {
        let n = block.len() * self.tiles();
        let mut products = Scratch::new(16 * self.out * n);
        each_chunk(
            &mut products.0,
            16 * n,
            #[inline(always)]
            |out, products| {
                // Two rows of the gradient, rounded up to whole tiles.
                let mut lines = vec![0.0; 2 * 2 * self.tiles()];
                let length = lines.len() / 2;
                for sample in self.samples(block) {
                    let plane = &grad[(sample * self.out + out) * self.height * self.width..];
                    for (index, row) in self.rows_of(sample, block) {
                        for (i, line) in lines.chunks_exact_mut(length).enumerate() {
                            match Some(2 * row + i).filter(|y| *y < self.height) {
                                Some(y) => line[..self.width].copy_from_slice(&plane[y * self.width..][..self.width]),
                                None => line.fill(0.0),
                            }
                        }
                        for tile in 0..self.tiles() {
                            let patch = std::array::from_fn(|i| read(&lines[i * length + 2 * tile..]));
                            write(products, index * self.tiles() + tile, n, both(patch, output_map_transposed));
                        }
                    }
                }
            },
        );
        products
    }

    /// Adds `B (gradient of the patches) B^T` of `block`, `[16, channels, tiles]`, to the pixels that the patches came from.
    #[cfg(feature = "train")]
    fn scatter(&self, grad_patches: &[f32], block: &Range<usize>, grad_x: &mut [f32]) {
        let n = block.len() * self.tiles();
        let pixels = self.height * self.width;
        let samples = self.samples(block);
        let touched = &mut grad_x[samples.start * self.channels * pixels..samples.end * self.channels * pixels];
        each_chunk(
            touched,
            pixels,
            #[inline(always)]
            |i, plane| {
                let (sample, channel) = (samples.start + i / self.channels, i % self.channels);
                let mut lines = vec![0.0; 4 * (2 * self.tiles() + 2)];
                let length = lines.len() / 4;
                for (index, row) in self.rows_of(sample, block) {
                    lines.fill(0.0);
                    for tile in 0..self.tiles() {
                        let at = channel * n + index * self.tiles() + tile;
                        let patch = both(collect(grad_patches, at, self.channels * n), input_map_transposed);
                        for (i, values) in patch.iter().enumerate() {
                            let line = &mut lines[i * length + 2 * tile..][..4];
                            line.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                        }
                    }
                    for (i, line) in lines.chunks_exact(length).enumerate() {
                        if let Some(y) = (2 * row + i).checked_sub(1).filter(|y| *y < self.height) {
                            let pixels = &mut plane[y * self.width..][..self.width];
                            pixels.iter_mut().zip(&line[1..]).for_each(|(sum, value)| *sum += value);
                        }
                    }
                }
            },
        );
    }
}

#[inline(always)]
fn read<const N: usize>(values: &[f32]) -> [f32; N] {
    *values.first_chunk().expect("lines are whole tiles long")
}

/// Writes a patch to 16 places `stride` apart.
#[inline(always)]
fn write(values: &mut [f32], at: usize, stride: usize, patch: [[f32; 4]; 4]) {
    for (i, value) in patch.as_flattened().iter().enumerate() {
        values[at + i * stride] = *value;
    }
}

/// Reads a patch from 16 places `stride` apart.
#[inline(always)]
fn collect(values: &[f32], at: usize, stride: usize) -> [[f32; 4]; 4] {
    std::array::from_fn(|i| std::array::from_fn(|j| values[at + (4 * i + j) * stride]))
}
