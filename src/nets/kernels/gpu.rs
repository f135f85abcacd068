//! The kernels of [packed](crate::weights::packed) weights on a GPU.
//!
//! A product and a convolution are the same kernel but for where the factor beside the weights comes from: a work group
//! computes a tile of at most 64 x 64 outputs, block by block along the sum. Its 64 units bring a block of as many rows of
//! either factor into shared memory, the weights out of their codes, and each unit then sums at most 8 x 8 outputs. That is
//! what every WebGPU device allows: at most 256 units, 16 KiB of shared memory, 4 of 8 buffers. Tiles are no larger than they
//! must be, so that 77 rows are two tiles of 40, and not of 64.
//!
//! Both factors and the products of four neighbours are in the type of the one beside the weights, f16 or f32; the sums over
//! these products are in f32.

use super::Window;
use crate::weights::{
    packed::Blocks,
    quant::{BLOCK, GgmlType},
};
use burn::tensor::{DType, Shape};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::numeric::empty_device_dtype,
    tensor::CubeTensor,
};
use half::f16;

/// Most outputs along either side of a work group's tile, and its units: one for each row that is brought in.
const TILE: usize = 64;
/// Units along either side of a work group.
const UNITS: usize = 8;
/// Numbers that are read from shared memory at once.
type Four<F> = Vector<F, Const<4>>;
/// Fours in a block.
const FOURS: usize = BLOCK / 4;

/// Answers `[rows, output]`, in the type of `x`.
pub fn multiply(x: CubeTensor, weight: CubeTensor, output: usize) -> CubeTensor {
    match x.dtype {
        DType::F16 => multiply_in::<f16>(x, weight, output),
        _ => multiply_in::<f32>(x, weight, output),
    }
}

fn multiply_in<F: Float + CubeElement>(x: CubeTensor, weight: CubeTensor, output: usize) -> CubeTensor {
    let x = into_contiguous(x);
    let [rows, input]: [usize; 2] = x.meta.shape().dims();
    let bits = bits(&weight, output * input);
    let y = empty(&x, [rows, output].into(), x.dtype);
    let each = Each { rows: each(rows), columns: each(output) };
    multiply_kernel::launch::<F>(
        &x.client.clone(),
        each.tiles(rows, output),
        CubeDim::new_1d(TILE as u32),
        x.into_buffer_arg(),
        weight.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        rows,
        output,
        input / BLOCK,
        each,
        bits,
    );
    y
}

/// Answers `[batch, output, out_height, out_width]`, in the type of `x`; `bias` is in f32.
pub fn convolve(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, window: Window, output: usize) -> CubeTensor {
    match x.dtype {
        DType::F16 => convolve_in::<f16>(x, weight, bias, window, output),
        _ => convolve_in::<f32>(x, weight, bias, window, output),
    }
}

fn convolve_in<F: Float + CubeElement>(
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    window: Window,
    output: usize,
) -> CubeTensor {
    let (x, bias) = (into_contiguous(x), into_contiguous(bias));
    let [batch, channels, height, width]: [usize; 4] = x.meta.shape().dims();
    let [out_height, out_width] = window.output([height, width]);
    let taps = channels * window.kernel[0] * window.kernel[1];
    let bits = bits(&weight, output * taps);
    let y = empty(&x, [batch, output, out_height, out_width].into(), x.dtype);
    let pixels = batch * out_height * out_width;
    let each = Each { rows: each(output), columns: each(pixels) };
    convolve_kernel::launch::<F>(
        &x.client.clone(),
        each.tiles(output, pixels),
        CubeDim::new_1d(TILE as u32),
        x.into_buffer_arg(),
        weight.into_buffer_arg(),
        bias.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        batch,
        output,
        taps / BLOCK,
        channels,
        height,
        width,
        out_height,
        out_width,
        window,
        each,
        bits,
    );
    y
}

/// Answers `[ids, columns]`.
pub fn look_up(weight: CubeTensor, ids: CubeTensor, rows: usize, columns: usize) -> CubeTensor {
    let ids = into_contiguous(ids);
    let bits = bits(&weight, rows * columns);
    let count = ids.meta.shape().num_elements() * columns;
    let y = empty(&weight, [count / columns, columns].into(), DType::F32);
    let units = CubeDim::new_1d(256);
    look_up_kernel::launch(
        &weight.client.clone(),
        calculate_cube_count_elemwise(&weight.client, count, units),
        units,
        ids.into_buffer_arg(),
        weight.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        columns,
        rows * columns / BLOCK,
        bits,
    );
    y
}

/// Bits of a code.
fn bits(weight: &CubeTensor, count: usize) -> u32 {
    let words = weight.meta.shape().num_elements();
    match Blocks::dtype(words, count).expect("as many words as the layer's shape needs: the loader saw to that") {
        GgmlType::Q4_0 => 4,
        GgmlType::Q8_0 => 8,
        GgmlType::F32 | GgmlType::F16 => 32,
    }
}

fn empty(like: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

/// Outputs of a unit along either side of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Each {
    rows: usize,
    columns: usize,
}

impl Each {
    /// Work groups for `rows` x `columns` outputs.
    fn tiles(self, rows: usize, columns: usize) -> CubeCount {
        let count = |outputs: usize, each: usize| outputs.div_ceil(each * UNITS) as u32;
        CubeCount::Static(count(columns, self.columns), count(rows, self.rows), 1)
    }
}

/// Outputs of a unit along a side of `outputs`: as few as make no more tiles.
fn each(outputs: usize) -> usize {
    outputs.div_ceil(outputs.div_ceil(TILE) * UNITS)
}

/// The scale of a block; `scales` is the index of the first.
#[cube]
fn scale(words: &[u32], scales: usize, block: usize) -> f32 {
    let bits = (words[scales + block / 2] >> (16 * (block as u32 % 2))) & 0xffff;
    let (exponent, fraction) = ((bits >> 10) & 31, bits & 1023);
    // A GPU may take subnormal numbers for zero: those of f16 are made of their integers.
    let small = f32::cast_from(fraction) * f32::new(5.960_464_5e-8);
    let normal = f32::reinterpret(((exponent + 112) << 23) | (fraction << 13));
    let size = select(exponent == 0, small, normal);
    select(bits >> 15 == 1, -size, size)
}

/// Code `i` of a word of `Q8_0`.
#[cube]
fn code_of_8<F: Float>(word: u32, #[comptime] i: u32) -> F {
    F::cast_from(((word >> (8 * i)) & 255) ^ 128) - F::new(128.0)
}

/// Code `i` of the low halves of a word of `Q4_0`.
#[cube]
fn code_of_4<F: Float>(word: u32, #[comptime] i: u32) -> F {
    F::cast_from((word >> (8 * i)) & 15) - F::new(8.0)
}

#[cube]
fn four<F: Float>(a: F, b: F, c: F, d: F) -> Four<F> {
    let mut four = Four::<F>::empty();
    four.insert(0usize, a);
    four.insert(1usize, b);
    four.insert(2usize, c);
    four.insert(3usize, d);
    four
}

#[cube]
fn codes_of_8<F: Float>(word: u32) -> Four<F> {
    four::<F>(
        code_of_8::<F>(word, 0u32),
        code_of_8::<F>(word, 1u32),
        code_of_8::<F>(word, 2u32),
        code_of_8::<F>(word, 3u32),
    )
}

#[cube]
fn codes_of_4<F: Float>(word: u32) -> Four<F> {
    four::<F>(
        code_of_4::<F>(word, 0u32),
        code_of_4::<F>(word, 1u32),
        code_of_4::<F>(word, 2u32),
        code_of_4::<F>(word, 3u32),
    )
}

/// Where four `i` of a row is within a tile: not behind its predecessor, so that units that read the same four of
/// neighbouring rows do not wait for one bank of the shared memory.
#[cube]
fn place(row: usize, i: usize) -> usize {
    row * FOURS + (i ^ (row % FOURS))
}

/// Brings block `block` of the unit's row of weights into `tile`, of which the unit has one; rows beyond the last are zero.
#[cube]
fn bring_weights<F: Float>(
    words: &[u32],
    tile: &mut Shared<[Four<F>]>,
    first: usize,
    rows: usize,
    block: usize,
    blocks: usize,
    #[comptime] bits: u32,
) {
    let lane = UNIT_POS as usize;
    let row = first + lane;
    if row < rows {
        let at = row * blocks + block;
        if comptime![bits == 8] {
            let scale = Four::<F>::new(F::cast_from(scale(words, rows * blocks * 8, at)));
            #[unroll]
            for i in 0..FOURS {
                tile[place(lane, i)] = codes_of_8::<F>(words[at * 8 + i]) * scale;
            }
        } else if comptime![bits == 32] {
            #[unroll]
            for i in 0..FOURS {
                let k = at * BLOCK + i * 4;
                tile[place(lane, i)] = four::<F>(
                    F::cast_from(f32::reinterpret(words[k])),
                    F::cast_from(f32::reinterpret(words[k + 1])),
                    F::cast_from(f32::reinterpret(words[k + 2])),
                    F::cast_from(f32::reinterpret(words[k + 3])),
                );
            }
        } else {
            let scale = Four::<F>::new(F::cast_from(scale(words, rows * blocks * 4, at)));
            // The second half of a block lies in the high halves of the first half's bytes.
            #[unroll]
            for i in 0..FOURS / 2 {
                let word = words[at * 4 + i];
                tile[place(lane, i)] = codes_of_4::<F>(word) * scale;
                tile[place(lane, i + FOURS / 2)] = codes_of_4::<F>(word >> 4) * scale;
            }
        }
    } else {
        bring_zeros::<F>(tile);
    }
}

#[cube]
fn bring_zeros<F: Float>(tile: &mut Shared<[Four<F>]>) {
    #[unroll]
    for i in 0..FOURS {
        tile[place(UNIT_POS as usize, i)] = Four::<F>::new(F::new(0.0));
    }
}

/// The outputs of a unit, before anything is added.
#[cube]
fn zeros(#[comptime] each: Each) -> Array<f32> {
    let mut sums = Array::<f32>::new(comptime![each.rows * each.columns]);
    #[unroll]
    for i in 0..comptime![each.rows * each.columns] {
        sums[i] = f32::new(0.0);
    }
    sums
}

/// Adds to a unit's outputs what one block of either factor gives. The outputs are [`UNITS`] apart along both sides.
#[cube]
fn add_products<F: Float>(
    sums: &mut Array<f32>,
    rows: &Shared<[Four<F>]>,
    columns: &Shared<[Four<F>]>,
    #[comptime] each: Each,
) {
    let (row, column) = (UNIT_POS as usize / UNITS, UNIT_POS as usize % UNITS);
    let mut left = Array::<Four<F>>::new(comptime![each.rows]);
    for k in 0..FOURS {
        #[unroll]
        for i in 0..comptime![each.rows] {
            left[i] = rows[place(row + i * UNITS, k)];
        }
        #[unroll]
        for j in 0..comptime![each.columns] {
            let right = columns[place(column + j * UNITS, k)];
            #[unroll]
            for i in 0..comptime![each.rows] {
                sums[i * comptime![each.columns] + j] += f32::cast_from(left[i].dot(right));
            }
        }
    }
}

#[cube(launch)]
fn multiply_kernel<F: Float>(
    x: &[F],
    words: &[u32],
    y: &mut [F],
    rows: usize,
    output: usize,
    blocks: usize,
    #[comptime] each: Each,
    #[comptime] bits: u32,
) {
    let (height, width) = (comptime![each.rows * UNITS], comptime![each.columns * UNITS]);
    let mut of_x = Shared::<[Four<F>]>::new_slice(comptime![each.rows * UNITS * FOURS]);
    let mut of_weights = Shared::<[Four<F>]>::new_slice(comptime![each.columns * UNITS * FOURS]);
    let mut sums = zeros(each);
    let (first_row, first_column) = (CUBE_POS_Y as usize * height, CUBE_POS_X as usize * width);
    let lane = UNIT_POS as usize;
    for block in 0..blocks {
        if lane < width {
            bring_weights::<F>(words, &mut of_weights, first_column, output, block, blocks, bits);
        }
        let row = first_row + lane;
        if lane < height {
            if row < rows {
                #[unroll]
                for i in 0..FOURS {
                    let at = (row * blocks + block) * BLOCK + i * 4;
                    of_x[place(lane, i)] = four::<F>(x[at], x[at + 1], x[at + 2], x[at + 3]);
                }
            } else {
                bring_zeros::<F>(&mut of_x);
            }
        }
        sync_cube();
        add_products::<F>(&mut sums, &of_x, &of_weights, each);
        sync_cube();
    }
    #[unroll]
    for i in 0..comptime![each.rows] {
        let row = first_row + lane / UNITS + i * UNITS;
        #[unroll]
        for j in 0..comptime![each.columns] {
            let column = first_column + lane % UNITS + j * UNITS;
            if row < rows && column < output {
                y[row * output + column] = F::cast_from(sums[i * comptime![each.columns] + j]);
            }
        }
    }
}

#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn convolve_kernel<F: Float>(
    x: &[F],
    words: &[u32],
    bias: &[f32],
    y: &mut [F],
    batch: usize,
    output: usize,
    blocks: usize,
    channels: usize,
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
    #[comptime] window: Window,
    #[comptime] each: Each,
    #[comptime] bits: u32,
) {
    let (tile_height, tile_width) = (comptime![each.rows * UNITS], comptime![each.columns * UNITS]);
    let mut of_weights = Shared::<[Four<F>]>::new_slice(comptime![each.rows * UNITS * FOURS]);
    let mut of_x = Shared::<[Four<F>]>::new_slice(comptime![each.columns * UNITS * FOURS]);
    let mut sums = zeros(each);
    let (first_channel, first_pixel) = (CUBE_POS_Y as usize * tile_height, CUBE_POS_X as usize * tile_width);
    let lane = UNIT_POS as usize;
    let plane = out_height * out_width;
    let pixels = batch * plane;
    // The output pixel whose inputs the unit brings in. Its window may begin before the first row or column: numbers
    // without sign then wrap around, beyond the last.
    let pixel = first_pixel + lane;
    let sample = pixel / plane;
    let at = pixel % plane;
    let top = (at / out_width * comptime![window.stride[0]]) as u32 - comptime![window.padding[0] as u32];
    let left = (at % out_width * comptime![window.stride[1]]) as u32 - comptime![window.padding[1] as u32];
    let taps = comptime![window.kernel[0] * window.kernel[1]];
    let kernel_width = comptime![window.kernel[1]];
    for block in 0..blocks {
        if lane < tile_height {
            bring_weights::<F>(words, &mut of_weights, first_channel, output, block, blocks, bits);
        }
        if lane < tile_width {
            #[unroll]
            for i in 0..FOURS {
                let mut seen = Four::<F>::new(F::new(0.0));
                if pixel < pixels {
                    #[unroll]
                    for j in 0..4usize {
                        let k = block * BLOCK + i * 4 + j;
                        let tap = k % taps;
                        let row = top + (tap / kernel_width) as u32;
                        let column = left + (tap % kernel_width) as u32;
                        if row < height as u32 && column < width as u32 {
                            let line = (sample * channels + k / taps) * height + row as usize;
                            seen.insert(j, x[line * width + column as usize]);
                        }
                    }
                }
                of_x[place(lane, i)] = seen;
            }
        }
        sync_cube();
        add_products::<F>(&mut sums, &of_weights, &of_x, each);
        sync_cube();
    }
    #[unroll]
    for i in 0..comptime![each.rows] {
        let channel = first_channel + lane / UNITS + i * UNITS;
        #[unroll]
        for j in 0..comptime![each.columns] {
            let pixel = first_pixel + lane % UNITS + j * UNITS;
            if channel < output && pixel < pixels {
                let at = (pixel / plane * output + channel) * plane + pixel % plane;
                y[at] = F::cast_from(sums[i * comptime![each.columns] + j] + bias[channel]);
            }
        }
    }
}

#[cube(launch)]
fn look_up_kernel(ids: &[i32], words: &[u32], y: &mut [f32], columns: usize, blocks: usize, #[comptime] bits: u32) {
    let at = ABSOLUTE_POS;
    if at < y.len() {
        let number = ids[at / columns] as usize * columns + at % columns;
        let block = number / BLOCK;
        let i = number % BLOCK;
        if comptime![bits == 8] {
            let word = words[block * 8 + i / 4] >> (8 * (i as u32 % 4));
            y[at] = scale(words, blocks * 8, block) * code_of_8::<f32>(word, 0u32);
        } else if comptime![bits == 32] {
            y[at] = f32::reinterpret(words[number]);
        } else {
            let byte = i % 16;
            let word = words[block * 4 + byte / 4] >> (8 * (byte as u32 % 4) + 4 * (i as u32 / 16));
            y[at] = scale(words, blocks * 4, block) * code_of_4::<f32>(word, 0u32);
        }
    }
}
