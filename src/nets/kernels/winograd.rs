//! 3x3 convolutions with 16 multiplications for every 2x2 outputs instead of 36: Winograd's minimal filtering
//! F(2x2, 3x3) (Lavin & Gray 2015).
//!
//! An output tile is `A^T [ sum over channels of (G g G^T) * (B^T d B) ] A` for the 4x4 patch `d` that it sees. The sum
//! over channels is a matrix product for each of the 16 positions. Every map is linear, so that the gradients are the
//! transposed maps in the opposite order.

use super::{Array, Matrices, Rows, Scratch, array, each_chunk, sizes};
use std::{
    array::from_fn,
    ops::{Add, Mul, Neg, Range, Sub},
};

/// Tiles of one matrix product: enough for the product to be efficient, few enough for its operands to stay in cache.
const TILES_PER_PRODUCT: usize = 512;

/// Tiles that are mapped at once.
const LANES: usize = 4;

/// One value of each of [`LANES`] neighbouring tiles.
#[derive(Clone, Copy)]
struct Lanes([f32; LANES]);

/// What the maps are made of: single values, or those of several tiles.
trait Value: Copy + Add<Output = Self> + Sub<Output = Self> + Neg<Output = Self> + Mul<f32, Output = Self> {}
impl Value for f32 {}
impl Value for Lanes {}

impl Add for Lanes {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i] + other.0[i]))
    }
}

impl Sub for Lanes {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i] - other.0[i]))
    }
}

impl Neg for Lanes {
    type Output = Self;

    #[inline(always)]
    fn neg(self) -> Self {
        Self(self.0.map(|value| -value))
    }
}

impl Mul<f32> for Lanes {
    type Output = Self;

    #[inline(always)]
    fn mul(self, factor: f32) -> Self {
        Self(self.0.map(|value| value * factor))
    }
}

/// Applies `map` to the rows of a patch, then to the columns of the result.
#[inline(always)]
fn both<T: Value, const I: usize, const O: usize>(patch: [[T; I]; I], map: impl Fn([T; I]) -> [T; O]) -> [[T; O]; O] {
    let rows: [[T; O]; I] = from_fn(|i| map(patch[i]));
    let columns: [[T; O]; O] = from_fn(|j| map(from_fn(|i| rows[i][j])));
    from_fn(|i| from_fn(|j| columns[j][i]))
}

/// `B^T d`: a patch of the input.
#[inline(always)]
fn input_map<T: Value>(d: [T; 4]) -> [T; 4] {
    [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
}

/// `A^T m`: the outputs of a tile.
#[inline(always)]
fn output_map<T: Value>(m: [T; 4]) -> [T; 2] {
    [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
}

/// `G g`: the kernel.
#[inline(always)]
fn kernel_map<T: Value>(g: [T; 3]) -> [T; 4] {
    let (even, odd) = ((g[0] + g[2]) * 0.5, g[1] * 0.5);
    [g[0], even + odd, even - odd, g[2]]
}

/// `B v`, the transpose of [`input_map`].
#[cfg(feature = "train")]
#[inline(always)]
fn input_map_transposed<T: Value>(v: [T; 4]) -> [T; 4] {
    [v[0], v[1] - v[2] + v[3], v[1] + v[2] - v[0], -v[3]]
}

/// `A y`, the transpose of [`output_map`].
#[cfg(feature = "train")]
#[inline(always)]
fn output_map_transposed<T: Value>(y: [T; 2]) -> [T; 4] {
    [y[0], y[0] + y[1], y[0] - y[1], -y[1]]
}

/// `G^T u`, the transpose of [`kernel_map`].
#[cfg(feature = "train")]
#[inline(always)]
fn kernel_map_transposed<T: Value>(u: [T; 4]) -> [T; 3] {
    let even = (u[1] + u[2]) * 0.5;
    [u[0] + even, (u[1] - u[2]) * 0.5, even + u[3]]
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
    /// For an input of this shape and so many channels of output.
    pub fn new(x: &Array, out: usize) -> Self {
        let [batch, channels, height, width] = sizes(x);
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

    /// The first tile and the number of tiles of each [`LANES`] of a row.
    fn groups(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let tiles = self.tiles();
        (0..tiles).step_by(LANES).map(move |tile| (tile, LANES.min(tiles - tile)))
    }

    /// `count` lines of pixels that are long enough for whole [`LANES`] of patches.
    fn lines(&self, count: usize) -> (Vec<f32>, usize) {
        let length = 2 * self.tiles().next_multiple_of(LANES) + 2;
        (vec![0.0; count * length], length)
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
    fn kernels(&self, weight: Rows<'_>) -> Scratch {
        let mut kernels = Scratch::new(16 * self.out * self.channels);
        each_chunk(
            &mut kernels.0,
            16 * self.channels,
            #[inline(always)]
            |out, kernels| {
                weight.with(
                    out..out + 1,
                    self.channels * 9,
                    #[inline(always)]
                    |weight| {
                        for (channel, g) in weight.chunks_exact(9).enumerate() {
                            let kernel = both(from_fn(|i| from_fn(|j| g[3 * i + j])), kernel_map);
                            for (i, value) in kernel.as_flattened().iter().enumerate() {
                                kernels[i * self.channels + channel] = *value;
                            }
                        }
                    },
                );
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
                let (mut lines, length) = self.lines(4);
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
                        for (tile, lanes) in self.groups() {
                            let patch = from_fn(|i| read::<4, { 2 * LANES + 2 }>(&lines[i * length + 2 * tile..]));
                            write(patches, index * self.tiles() + tile, n, lanes, both(patch, input_map));
                        }
                    }
                }
            },
        );
        patches
    }

    /// The convolution: `x`: `[batch, channels, height, width]`, contiguous; `bias`: `[out]`, contiguous.
    pub fn forward(&self, x: &Array, weight: Rows<'_>, bias: &Array) -> Array {
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
                        for (tile, lanes) in self.groups() {
                            let at = out * n + index * self.tiles() + tile;
                            let values = both(collect(products, at, self.out * n, lanes), output_map);
                            for (i, [left, right]) in values.into_iter().enumerate().take(self.height - 2 * row) {
                                let line = &mut plane[(2 * row + i) * self.width..][..self.width][2 * tile..];
                                let values: [f32; 2 * LANES] =
                                    from_fn(|j| bias[out] + if j % 2 == 0 { left.0[j / 2] } else { right.0[j / 2] });
                                match line.first_chunk_mut() {
                                    Some(line) => *line = values,
                                    None => line.iter_mut().zip(values).for_each(|(y, value)| *y = value),
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
    pub fn backward(&self, x: &Array, weight: Rows<'_>, grad: &Array, wanted: bool) -> (Option<Array>, Array, Array) {
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
                    let at = |i: usize| (i * self.out + out) * self.channels + channel;
                    let kernel = from_fn(|i| from_fn(|j| grad_kernels[at(4 * i + j)]));
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
                let planes = (0..self.batch).map(|sample| &grad[(sample * self.out + out) * pixels..][..pixels]);
                bias[0] = planes.map(super::total).sum();
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
                let (mut lines, length) = self.lines(2);
                for sample in self.samples(block) {
                    let plane = &grad[(sample * self.out + out) * self.height * self.width..];
                    for (index, row) in self.rows_of(sample, block) {
                        for (i, line) in lines.chunks_exact_mut(length).enumerate() {
                            let line = &mut line[..self.width];
                            match Some(2 * row + i).filter(|y| *y < self.height) {
                                Some(y) => line.copy_from_slice(&plane[y * self.width..][..self.width]),
                                None => line.fill(0.0),
                            }
                        }
                        for (tile, lanes) in self.groups() {
                            let patch = from_fn(|i| read::<2, { 2 * LANES }>(&lines[i * length + 2 * tile..]));
                            let values = both(patch, output_map_transposed);
                            write(products, index * self.tiles() + tile, n, lanes, values);
                        }
                    }
                }
            },
        );
        products
    }

    /// Adds `B (gradient of the patches) B^T` of `block`, `[16, channels, tiles]`, to the pixels that the patches came
    /// from.
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
                let (mut lines, length) = self.lines(4);
                for (index, row) in self.rows_of(sample, block) {
                    lines.fill(0.0);
                    for (tile, lanes) in self.groups() {
                        let at = channel * n + index * self.tiles() + tile;
                        let values = collect(grad_patches, at, self.channels * n, lanes);
                        for (i, values) in both(values, input_map_transposed).into_iter().enumerate() {
                            let line = lines[i * length + 2 * tile..].first_chunk_mut::<{ 2 * LANES + 2 }>();
                            let line = line.expect("lines are whole lanes long");
                            // Neighbouring patches overlap by two pixels.
                            for lane in 0..LANES {
                                for (j, values) in values.iter().enumerate() {
                                    line[2 * lane + j] += values.0[lane];
                                }
                            }
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

/// The `WIDTH` values that each tile sees of a line; tiles are two pixels apart.
#[inline(always)]
fn read<const WIDTH: usize, const SPAN: usize>(line: &[f32]) -> [Lanes; WIDTH] {
    let line: &[f32; SPAN] = line.first_chunk().expect("lines are whole lanes long");
    from_fn(|j| Lanes(from_fn(|lane| line[2 * lane + j])))
}

/// Writes the patches of `lanes` tiles to 16 rows `stride` apart.
#[inline(always)]
fn write(values: &mut [f32], at: usize, stride: usize, lanes: usize, patch: [[Lanes; 4]; 4]) {
    for (i, lane) in patch.as_flattened().iter().enumerate() {
        let row = &mut values[at + i * stride..][..lanes];
        match row.first_chunk_mut() {
            Some(row) => *row = lane.0,
            None => row.copy_from_slice(&lane.0[..lanes]),
        }
    }
}

/// Reads the patches of `lanes` tiles from 16 rows `stride` apart.
#[inline(always)]
fn collect(values: &[f32], at: usize, stride: usize, lanes: usize) -> [[Lanes; 4]; 4] {
    let row = |i: usize| {
        let row = &values[at + i * stride..][..lanes];
        Lanes(match row.first_chunk() {
            Some(row) => *row,
            None => from_fn(|lane| row.get(lane).copied().unwrap_or_default()),
        })
    };
    from_fn(|i| from_fn(|j| row(4 * i + j)))
}
