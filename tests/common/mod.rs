//! What the tests share: devices to run on, goldens to compare with, and the comparison.
#![allow(dead_code)]

pub mod quantized;

use burn::tensor::{Device, DeviceKind, Tensor, TensorData};
use pangu_draw::{
    Result,
    weights::{StoredTensor, TensorSource, safetensors::SafeTensors},
};

/// Every device a numeric test must pass on: the CPU backend, and wgpu (Mesa's lavapipe in CI).
///
/// `PANGU_TEST_DEVICES=cpu` restricts the list on a machine without a Vulkan driver; nothing is skipped silently.
pub fn devices() -> Vec<(&'static str, Device)> {
    let mut devices = vec![("cpu", Device::flex())];
    if std::env::var("PANGU_TEST_DEVICES").as_deref() != Ok("cpu") {
        devices.push(("wgpu", Device::wgpu(DeviceKind::DefaultDevice)));
    }
    devices
}

/// A golden: a safetensors file with `weights.*`, `input.*` and `output.*` tensors and a JSON `config` in its metadata,
/// written by tests/oracle.
pub fn golden(name: &str) -> SafeTensors {
    let path = format!("{}/tests/goldens/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    SafeTensors::new(name, bytes).expect("goldens are valid")
}

/// One tensor of a golden as shape and values.
pub fn values(golden: &SafeTensors, name: &str) -> (Vec<usize>, Vec<f32>) {
    let stored = golden.tensor(name).expect("readable").unwrap_or_else(|| panic!("golden has no {name}"));
    let count = stored.shape.iter().product();
    let values = stored.dtype.dequantize(&stored.bytes, count).expect("a float tensor");
    (stored.shape, values)
}

/// One tensor of a golden on `device`.
pub fn tensor<const D: usize>(golden: &SafeTensors, name: &str, device: &Device) -> Tensor<D> {
    let (shape, values) = values(golden, name);
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Largest absolute difference over the expected tensor's largest absolute value.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len(), "element counts");
    assert!(found.iter().all(|x| x.is_finite()), "non-finite output");
    let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale
}

/// Asserts `relative_error <= tolerance` and prints the error, so that `--nocapture` gives the parity table.
pub fn assert_close<const D: usize>(what: &str, found: Tensor<D>, expected: &[f32], tolerance: f32) {
    let found: Vec<f32> = found.into_data().convert::<f32>().try_to_vec().expect("f32");
    let error = relative_error(&found, expected);
    println!("parity | {what} | {error:.2e}");
    assert!(error <= tolerance, "{what}: {error:e} > {tolerance:e}");
}

/// One half of a file that holds an encoder and a decoder.
pub struct Half<'a> {
    /// The whole file.
    pub whole: &'a SafeTensors,
    /// How the half's tensor names begin.
    pub prefixes: [&'a str; 2],
}

impl TensorSource for Half<'_> {
    fn component(&self) -> &str {
        self.whole.component()
    }

    fn names(&self) -> Vec<String> {
        let ours = |name: &String| self.prefixes.iter().any(|prefix| name.starts_with(prefix));
        self.whole.names().into_iter().filter(ours).collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>> {
        self.whole.tensor(name)
    }
}
