//! Operations on [packed](crate::weights::packed) weights: the blocks become numbers inside the kernel.

use super::{Array, Geometry, Matrices, Rows, Scratch, Window, array, each_chunk, gpu, sizes};
use crate::weights::packed::Blocks;
use burn::{
    backend::{
        Backend, Dispatch, Flex, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Int, IntDType, Shape, Tensor},
};
use burn_cubecl::CubeBackend;

/// `x W^T`. `x`: `[rows, input]`, `weight`: `[output, input]`, packed; answers `[rows, output]`.
pub fn multiply(x: Tensor<2>, weight: Tensor<1, Int>, output: usize) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::multiply_packed(x.into_dispatch(), weight.into_dispatch(), output))
}

/// The convolution of `x`: `[batch, input, height, width]` with `weight`: `[output, input, kernel height, kernel width]`,
/// packed; `bias`: `[output]`.
pub(super) fn convolve(
    x: Tensor<4>,
    weight: Tensor<1, Int>,
    bias: Tensor<1>,
    window: Window,
    output: usize,
) -> Tensor<4> {
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::convolve_packed(x, weight, bias, window, output))
}

/// The rows of `weight`, `[rows, columns]` and packed, that `ids` name: `[ids, columns]`.
pub fn look_up(weight: Tensor<1, Int>, shape: [usize; 2], ids: Tensor<1, Int>) -> Tensor<2> {
    let ids = ids.cast(IntDType::I32);
    Tensor::from_dispatch(Dispatch::look_up_packed(weight.into_dispatch(), ids.into_dispatch(), shape[0], shape[1]))
}

fn product_shape(x: &Shape, output: &usize) -> Shape {
    [x[0], *output].into()
}

fn convolved_shape(x: &Shape, window: &Window, output: &usize) -> Shape {
    let [height, width] = window.output([x[2], x[3]]);
    [x[0], *output, height, width].into()
}

fn looked_up_shape(ids: &Shape, columns: &usize) -> Shape {
    [ids[0], *columns].into()
}

/// The kernels. Networks with packed weights are not trained: there is nothing for a device that records gradients.
#[backend_extension(Flex, Cube, Fusion)]
trait PackedKernels: Backend {
    #[fusion(dtype = x, shape = product_shape(x, output))]
    fn multiply_packed(x: FloatTensor<Self>, weight: IntTensor<Self>, output: usize) -> FloatTensor<Self>;

    #[fusion(dtype = x, shape = convolved_shape(x, window, output))]
    fn convolve_packed(
        x: FloatTensor<Self>,
        weight: IntTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
        output: usize,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = DType::F32, shape = looked_up_shape(ids, columns))]
    fn look_up_packed(weight: IntTensor<Self>, ids: IntTensor<Self>, rows: usize, columns: usize) -> FloatTensor<Self>;
}

impl PackedKernels for CubeBackend {
    fn multiply_packed(x: FloatTensor<Self>, weight: IntTensor<Self>, output: usize) -> FloatTensor<Self> {
        gpu::multiply(x, weight, output)
    }

    fn convolve_packed(
        x: FloatTensor<Self>,
        weight: IntTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
        output: usize,
    ) -> FloatTensor<Self> {
        gpu::convolve(x, weight, bias, window, output)
    }

    fn look_up_packed(weight: IntTensor<Self>, ids: IntTensor<Self>, rows: usize, columns: usize) -> FloatTensor<Self> {
        gpu::look_up(weight, ids, rows, columns)
    }
}

/// Fewer rows than these are multiplied by a few rows of weights at a time, which then need not go through memory.
const FEW_ROWS: usize = 64;
/// Rows of weights at a time.
const PANEL: usize = 32;

fn blocks(weight: &IntTensor<Flex>, count: usize) -> Blocks<'_> {
    Blocks::new(weight.storage(), count).expect("as many words as the layer's shape needs: the loader saw to that")
}

impl PackedKernels for Flex {
    fn multiply_packed(x: Array, weight: IntTensor<Flex>, output: usize) -> Array {
        let x = x.to_contiguous();
        let [rows, input] = sizes(&x);
        let blocks = blocks(&weight, output * input);
        let x = Matrices::one(x.storage(), rows, input);
        let mut y = vec![0.0; rows * output];
        if rows >= FEW_ROWS {
            Rows::Packed(blocks).with(0..output, input, |weight| {
                x.multiply(Matrices::one(weight, output, input).transposed(), false, &mut y);
            });
            return array(y, [rows, output]);
        }
        let mut transposed = Scratch::new(output * rows);
        each_chunk(&mut transposed.0, PANEL * rows, |panel, y| {
            let first = panel * PANEL;
            let weights = first..first + y.len() / rows;
            let mut numbers = Scratch::new(weights.len() * input);
            blocks.read(first * input, &mut numbers.0);
            Matrices::one(&numbers.0, weights.len(), input).multiply(x.transposed(), false, y);
        });
        each_chunk(
            &mut y,
            output,
            #[inline(always)]
            |row, y| y.iter_mut().zip(transposed.0[row..].iter().step_by(rows)).for_each(|(y, product)| *y = *product),
        );
        array(y, [rows, output])
    }

    fn convolve_packed(x: Array, weight: IntTensor<Flex>, bias: Array, window: Window, output: usize) -> Array {
        let (stride, padding) = window.square().expect("the caller asks for square windows");
        let [_, channels, ..]: [usize; 4] = sizes(&x);
        let [height, width] = window.kernel;
        let geometry = Geometry::new(sizes(&x), [output, channels, height, width], stride, padding);
        let weight = Rows::Packed(blocks(&weight, output * geometry.taps()));
        geometry.forward(&x.to_contiguous(), weight, &bias.to_contiguous())
    }

    fn look_up_packed(weight: IntTensor<Flex>, ids: IntTensor<Flex>, rows: usize, columns: usize) -> Array {
        let ids = ids.to_contiguous();
        let ids: &[i32] = ids.storage();
        let blocks = blocks(&weight, rows * columns);
        let mut y = vec![0.0; ids.len() * columns];
        each_chunk(
            &mut y,
            columns,
            #[inline(always)]
            |i, y| blocks.read(usize::try_from(ids[i]).expect("ids are not negative") * columns, y),
        );
        array(y, [ids.len(), columns])
    }
}
