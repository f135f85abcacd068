//! Linear layers, convolutions and embeddings on `Q8_0` and `Q4_0` blocks, on the CPU and on wgpu.

mod common;

use burn::{
    module::Module,
    nn::EmbeddingConfig,
    tensor::{Device, Tensor},
};
use common::{
    devices,
    quantized::{Case, OneLayer, TYPES, convolution, embedding, linear},
};
use pangu_draw::{
    nets::layers::Embedding,
    weights::{StoredTensor, load, packed::LARGEST_BINDING, quant::GgmlType, save},
};
use pollster::block_on;

#[test]
fn linear_layers_multiply_by_blocks() {
    for (_, device) in devices() {
        for dtype in TYPES {
            for rows in [1, 2, 3, 33, 64, 257] {
                for (input, output) in [(32, 1), (96, 70), (288, 64), (320, 129), (64, 257)] {
                    block_on(linear(dtype, [rows, input, output], 1.0, usize::MAX, &device));
                }
            }
            // Scales that f16 has only as subnormal numbers, and the largest.
            for scale in [1e-3, 1e-5, 1e5] {
                block_on(linear(dtype, [3, 64, 40], scale, usize::MAX, &device));
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
            cases.iter().for_each(|case| block_on(convolution(dtype, case, usize::MAX, &device)));
        }
    }
}

#[test]
fn embeddings_are_looked_up_in_blocks() {
    for (_, device) in devices() {
        for dtype in TYPES {
            for shape in [[1, 32], [7, 96], [77, 288]] {
                block_on(embedding(dtype, shape, usize::MAX, &device));
            }
        }
    }
}

/// As larger weights are cut where a GPU reads only so many bytes at once.
#[test]
fn layers_in_parts_are_as_whole_ones() {
    for (_, device) in devices() {
        for dtype in GgmlType::ALL {
            // From a row a part to parts of unlike size; every weight takes more, in f32.
            for limit in [1, 3000, 10_000] {
                block_on(linear(dtype, [33, 96, 70], 1.0, limit, &device));
                block_on(linear(dtype, [2, 288, 64], 1.0, limit, &device));
                block_on(embedding(dtype, [77, 96], limit, &device));
                for case in [
                    Case::new([2, 64, 7, 5], 65, 1, 1, 0),
                    Case::new([1, 32, 9, 13], 12, 3, 1, 1),
                    Case { kernel: [1, 3], padding: [0, 1, 0, 1], ..Case::new([1, 32, 6, 7], 40, 1, 1, 0) },
                ] {
                    block_on(convolution(dtype, &case, limit, &device));
                }
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
fn a_table_larger_than_a_binding_is_cut_on_a_gpu() {
    const COLUMNS: usize = 768;
    let rows = LARGEST_BINDING / COLUMNS / 4 + 7;
    let bytes = (0..rows).flat_map(|row| [row as f32; COLUMNS]).flat_map(f32::to_le_bytes).collect::<Vec<_>>();
    let weight = StoredTensor { shape: vec![rows, COLUMNS], dtype: GgmlType::F32, bytes: bytes.into() };
    let file = OneLayer { weight, bias: None };
    for (kind, device) in devices() {
        let table = load(Embedding::from(EmbeddingConfig::new(rows, COLUMNS).init(&device)), &file, "").unwrap();
        assert_eq!(table.is_packed(), kind == "wgpu");
        let ids = [0, rows - 1, rows / 2, rows / 2 - 1, rows / 2 + 1, 1].map(|id| id as i32);
        let found = table.forward(Tensor::from_data([ids], &device)).into_data();
        let expected: Vec<f32> = ids.iter().flat_map(|&id| [id as f32; COLUMNS]).collect();
        assert_eq!(found.try_to_vec::<f32>().unwrap(), expected, "{kind}");
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
    assert_eq!(save(&load(Embedding::within(packed.layer.clone(), 128), &zeros(3), "").unwrap(), "")[0].2, [0.0; 96]);
    let weight = StoredTensor { dtype: GgmlType::F32, bytes: vec![0; 96 * 4].into(), ..zeros(3).weight };
    assert!(!load(packed, &OneLayer { weight, bias: None }, "").unwrap().is_packed());
}
