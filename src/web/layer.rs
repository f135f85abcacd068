//! One linear layer on quantized weights, to be timed beside other engines' (`tests/onnxruntime`). No part of what ships.

use super::{error_to_js, journal};
use crate::{
    Error, Result,
    device::{self, OpenDevice},
    nets::layers::Linear,
    weights::{StoredTensor, TensorSource, load, quant::GgmlType},
};
use burn::{
    nn::LinearConfig,
    tensor::{Tensor, TensorData},
};
use js_sys::Float32Array;
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};

/// A device, and a layer on it.
#[wasm_bindgen]
pub struct Layer {
    opened: OpenDevice,
    layer: Option<(Linear, Tensor<2>)>,
}

struct Weight(StoredTensor<'static>);

impl TensorSource for Weight {
    fn component(&self) -> &str {
        "layer"
    }

    fn names(&self) -> Vec<String> {
        vec!["weight".into()]
    }

    fn tensor(&self, _name: &str) -> Result<Option<StoredTensor<'_>>> {
        Ok(Some(self.0.clone()))
    }
}

#[wasm_bindgen]
impl Layer {
    /// No layer yet, on `webgpu` or `cpu`. To be called once.
    pub async fn open(device: String) -> Result<Layer, JsValue> {
        journal::install();
        let open = async { device::open(device.parse()?).await };
        Ok(Self { opened: open.await.map_err(error_to_js)?, layer: None })
    }

    /// Replaces the layer by one of weights `[output, input]` in `blocks` of a ggml type, and its input by `x`: `[rows, input]`.
    pub fn set(&mut self, dtype: String, blocks: Vec<u8>, x: Vec<f32>, output: usize) -> Result<(), JsValue> {
        self.layer = None;
        let device = &self.opened.device;
        let set = || {
            device.memory_cleanup();
            let dtype: GgmlType = dtype.parse()?;
            let input = blocks.len() / dtype.block_bytes() * dtype.block() / output;
            let rows = x.len() / input;
            let weight = Weight(StoredTensor { shape: vec![output, input], dtype, bytes: blocks.into() });
            let layer = LinearConfig::new(input, output).with_bias(false).init(device).into();
            Ok((load(layer, &weight, "")?, Tensor::from_data(TensorData::new(x, [rows, input]), device)))
        };
        self.layer = Some(set().map_err(error_to_js)?);
        Ok(())
    }

    /// Evaluates the layer so many times, and answers the last output when all are done.
    pub async fn run(&self, times: usize) -> Result<Float32Array, JsValue> {
        let run = async {
            let none = || Error::Invalid { parameter: "layer", why: "there is none yet".into() };
            let (layer, x) = self.layer.as_ref().ok_or_else(none)?;
            let mut y = layer.forward(x.clone());
            for _ in 1..times {
                y = layer.forward(x.clone());
            }
            let data = y.into_data_async().await.map_err(|error| Error::Device(format!("{error:?}")))?;
            let values = data.try_to_vec::<f32>().map_err(|error| Error::Device(format!("{error:?}")))?;
            journal::check()?;
            Ok(Float32Array::from(&values[..]))
        };
        run.await.map_err(error_to_js)
    }

    /// Bytes that the device's allocator has handed out.
    pub fn used_bytes(&self) -> Option<f64> {
        self.opened.device.memory_pool_usage().map(|pool| pool.bytes_in_use as f64)
    }
}
