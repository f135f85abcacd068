//! Linear layers, convolutions and embeddings on `Q8_0` and `Q4_0` blocks, on the CPU and on wgpu.

mod common;

use burn::{module::Module, nn::EmbeddingConfig, tensor::Device};
use common::{
    devices,
    quantized::{Case, OneLayer, TYPES, convolution, embedding, linear},
};
use pangu_draw::{
    Error,
    nets::layers::Embedding,
    weights::{StoredTensor, load, quant::GgmlType, save},
};
use pollster::block_on;

#[test]
fn linear_layers_multiply_by_blocks() {
    for (_, device) in devices() {
        for dtype in TYPES {
            for rows in [1, 2, 3, 33, 64, 257] {
                for (input, output) in [(32, 1), (96, 70), (288, 64), (320, 129), (64, 257)] {
                    block_on(linear(dtype, [rows, input, output], 1.0, &device));
                }
            }
            // Scales that f16 has only as subnormal numbers, and the largest.
            for scale in [1e-3, 1e-5, 1e5] {
                block_on(linear(dtype, [3, 64, 40], scale, &device));
            }
        }
    }
}

#[test]
fn convolutions_multiply_by_blocks() {
    let mut cases = vec![
        Case::new([1, 32, 1, 1], 1, 1, 1, 0),
        Case::new([2, 64, 7, 5], 33, 1, 1, 0),
        Case::new([1, 32, 9, 13], 65, 3, 1, 1),
        Case::new([2, 96, 16, 16], 64, 3, 1, 1),
        Case::new([1, 64, 8, 11], 7, 3, 1, 0),
        Case::new([2, 32, 15, 8], 70, 3, 2, 1),
        Case::new([2, 32, 8, 9], 5, 3, 2, 0),
        Case::new([1, 8, 6, 6], 16, 2, 2, 0),
        Case::new([3, 32, 5, 5], 12, 5, 1, 2),
    ];
    // As diffusers' encoder pads, and a kernel that is not square.
    cases.push(Case { padding: [0, 0, 1, 1], ..Case::new([2, 32, 8, 6], 9, 3, 2, 0) });
    cases.push(Case { kernel: [1, 3], padding: [0, 1, 0, 1], ..Case::new([1, 32, 6, 7], 4, 1, 1, 0) });
    for (_, device) in devices() {
        for dtype in TYPES {
            cases.iter().for_each(|case| block_on(convolution(dtype, case, &device)));
        }
    }
}

#[test]
fn embeddings_are_looked_up_in_blocks() {
    for (_, device) in devices() {
        for dtype in TYPES {
            for shape in [[1, 32], [7, 96], [77, 288]] {
                block_on(embedding(dtype, shape, &device));
            }
        }
    }
}

/// A table of `rows` x 32 in `Q8_0`, all zeros.
fn zeros(rows: usize) -> OneLayer {
    let weight = StoredTensor { shape: vec![rows, 32], dtype: GgmlType::Q8_0, bytes: vec![0; rows * 34].into() };
    OneLayer { weight, bias: None }
}

#[test]
fn a_weight_larger_than_a_binding_is_refused() {
    for (kind, device) in devices() {
        let rows = (128 << 20) / 34 + 1;
        let table = |device: &Device| Embedding::from(EmbeddingConfig::new(rows, 32).init(device));
        match load(table(&device), &zeros(rows), "") {
            Ok(table) => assert!(kind == "cpu" && table.is_packed(), "{kind}"),
            Err(error) => assert!(kind == "wgpu" && matches!(error, Error::Unsupported(_)), "{kind}: {error}"),
        }
    }
}

/// What is trained is loaded in f32, and a layer that is loaded again takes what it is given.
#[test]
fn gradients_are_of_dense_weights() {
    let table = |device: &Device| Embedding::from(EmbeddingConfig::new(3, 32).init(device));
    let trained = load(table(&Device::flex().autodiff()), &zeros(3), "").unwrap();
    assert!(!trained.is_packed());
    assert_eq!(save(&trained, "")[0].2, [0.0; 96]);

    let packed = load(table(&Device::flex()), &zeros(3), "").unwrap();
    assert!(packed.is_packed());
    assert_eq!(packed.num_params(), 96);
    let weight = StoredTensor { dtype: GgmlType::F32, bytes: vec![0; 96 * 4].into(), ..zeros(3).weight };
    assert!(!load(packed, &OneLayer { weight, bias: None }, "").unwrap().is_packed());
}
