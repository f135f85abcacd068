//! Layers on quantized weights, against burn's own operation on the same weights dequantized.

use super::relative_error;
use burn::{
    module::{Module, ModuleDisplay},
    nn::{self, EmbeddingConfig, LinearConfig, PaddingConfig2d, conv::Conv2dConfig},
    tensor::{DType, Device, FloatDType, Int, Tensor, TensorData},
};
use pangu_draw::{
    Result,
    nets::layers::{Conv2d, Embedding, Linear, Packable},
    weights::{StoredTensor, TensorSource, load, quant::GgmlType},
};

pub const TYPES: [GgmlType; 2] = [GgmlType::Q8_0, GgmlType::Q4_0];
const TOLERANCE: f32 = 1e-4;

/// Types of numbers that layers compute in on `device`, with the largest error.
fn precisions(device: &Device) -> Vec<(FloatDType, f32)> {
    let f16 = *device != Device::flex() && device.supports_dtype(DType::F16);
    [(FloatDType::F32, TOLERANCE)].into_iter().chain(f16.then_some((FloatDType::F16, 2e-3))).collect()
}

/// One layer's tensors.
pub struct OneLayer {
    pub weight: StoredTensor<'static>,
    pub bias: Option<StoredTensor<'static>>,
}

impl OneLayer {
    /// A weight of this shape in PyTorch's order, in numbers up to `scale`; a bias if asked for.
    fn new(shape: &[usize], dtype: GgmlType, scale: f32, bias: bool) -> Self {
        let stored = |shape: &[usize], dtype: GgmlType, seed| {
            let values = numbers(shape.iter().product(), seed).into_iter().map(|x| x * scale).collect::<Vec<_>>();
            StoredTensor { shape: shape.into(), dtype, bytes: dtype.quantize(&values).expect("whole blocks").into() }
        };
        Self { weight: stored(shape, dtype, 1), bias: bias.then(|| stored(&shape[..1], GgmlType::F32, 2)) }
    }
}

impl TensorSource for OneLayer {
    fn component(&self) -> &str {
        "layer"
    }

    fn names(&self) -> Vec<String> {
        ["weight"].into_iter().chain(self.bias.as_ref().map(|_| "bias")).map(String::from).collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>> {
        Ok(if name == "weight" { Some(self.weight.clone()) } else { self.bias.clone() })
    }
}

/// Numbers in -1..1 without a pattern.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers(shape.iter().product(), 3), shape), device)
}

async fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data_async().await.expect("a working device").convert::<f32>().try_to_vec().expect("f32")
}

async fn compare<const D: usize>(what: &str, found: Tensor<D>, expected: Tensor<D>, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let error = relative_error(&floats(found).await, &floats(expected).await);
    assert!(error <= tolerance, "{what}: {error:e} > {tolerance:e}");
}

/// The layer on packed weights on `device`, and burn's own in f32 on the CPU.
fn both<L: Module + ModuleDisplay>(
    file: &OneLayer,
    device: &Device,
    init: impl Fn(&Device) -> L,
    pack: impl Fn(L) -> Packable<L>,
) -> (Packable<L>, L) {
    let packed = load(pack(init(device)), file, "").expect("fits");
    assert!(packed.is_packed(), "{:?} {} was unpacked", file.weight.shape, file.weight.dtype);
    (packed, load(init(&Device::flex()), file, "").expect("fits"))
}

/// `[rows, input]` by `[output, input]`, kept in parts of at most `limit` bytes.
pub async fn linear(dtype: GgmlType, [rows, input, output]: [usize; 3], scale: f32, limit: usize, device: &Device) {
    let bias = rows % 2 == 1;
    let file = OneLayer::new(&[output, input], dtype, scale, bias);
    let config = LinearConfig::new(input, output).with_bias(bias);
    let (packed, plain): (Linear, nn::Linear) =
        both(&file, device, |device| config.init(device), |layer| Linear::within(layer, limit));
    let x = |device: &Device| random([rows, input], device);
    // More axes, and an input whose rows are not one after another.
    let strided = |device: &Device| random([1, input, rows], device).swap_dims(1, 2);
    // f16 is for numbers of a usual size.
    for (float, tolerance) in
        precisions(device).into_iter().filter(|(float, _)| *float == FloatDType::F32 || scale == 1.0)
    {
        let what = format!("{dtype} linear, {rows} x {input} x {output}, {float:?}");
        let found = packed.forward(x(device).cast(float));
        assert_eq!(found.dtype(), float.into(), "{what}");
        compare(&what, found, plain.forward(x(&Device::flex())), tolerance).await;
        let found = packed.forward(strided(device).cast(float));
        compare(&what, found, plain.forward(strided(&Device::flex())), tolerance).await;
    }
}

/// A convolution's sizes.
#[derive(Debug, Clone)]
pub struct Case {
    /// Batch, channels, height, width.
    pub x: [usize; 4],
    pub output: usize,
    pub kernel: [usize; 2],
    pub stride: usize,
    /// Top, left, bottom, right.
    pub padding: [usize; 4],
}

impl Case {
    pub const fn new(x: [usize; 4], output: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        Self { x, output, kernel: [kernel; 2], stride, padding: [padding; 4] }
    }
}

pub async fn convolution(dtype: GgmlType, case: &Case, limit: usize, device: &Device) {
    let Case { x, output, kernel, stride, padding: [top, left, bottom, right] } = case.clone();
    let bias = output % 2 == 1;
    let file = OneLayer::new(&[output, x[1], kernel[0], kernel[1]], dtype, 1.0, bias);
    let config = Conv2dConfig::new([x[1], output], kernel)
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(top, left, bottom, right))
        .with_bias(bias);
    let (packed, plain): (Conv2d, nn::conv::Conv2d) =
        both(&file, device, |device| config.init(device), |layer| Conv2d::within(layer, limit));
    let input = |device: &Device| random(x, device);
    for (float, tolerance) in precisions(device) {
        let what = format!("{dtype} {case:?}, {float:?}");
        let found = packed.forward(input(device).cast(float));
        assert_eq!(found.dtype(), float.into(), "{what}");
        compare(&what, found, plain.forward(input(&Device::flex())), tolerance).await;
    }
}

pub async fn embedding(dtype: GgmlType, [rows, columns]: [usize; 2], limit: usize, device: &Device) {
    let file = OneLayer::new(&[rows, columns], dtype, 1.0, false);
    let config = EmbeddingConfig::new(rows, columns);
    let (packed, plain): (Embedding, nn::Embedding) =
        both(&file, device, |device| config.init(device), |layer| Embedding::within(layer, limit));
    let ids: Vec<i32> = (0..2 * 5).map(|i| (i * 31 + 6) % rows as i32).collect();
    let ids = |device| Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [2, 5]), device);
    let what = format!("{dtype} embedding, {rows} x {columns}");
    compare(&what, packed.forward(ids(device)), plain.forward(ids(&Device::flex())), TOLERANCE).await;
}
