//! Weights in files and in networks.

mod common;

use burn::{
    module::Module,
    nn::{LayerNorm, LayerNormConfig, LinearConfig, conv::Conv2dConfig},
    tensor::Device,
};
use common::devices;
use pangu_draw::{
    Error,
    nets::layers::{Conv2d, Linear},
    weights::{
        PIECE, TensorSource,
        gguf::{GgufFile, GgufWriter, Metadata, TensorInfo, TensorPlan, Value},
        load,
        quant::GgmlType,
        save, write_module,
    },
};
#[derive(Module, Debug)]
struct Net {
    wide: Linear,
    odd: Linear,
    narrow: Linear,
    norm: LayerNorm,
    conv: Conv2d,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self {
            wide: LinearConfig::new(320, 1280).init(device).into(),
            odd: LinearConfig::new(64, 77).with_bias(false).init(device).into(),
            narrow: LinearConfig::new(48, 33).init(device).into(),
            norm: LayerNormConfig::new(48).init(device),
            conv: Conv2dConfig::new([32, 5], [3, 3]).init(device).into(),
        }
    }

    fn file(&self, dtype: GgmlType) -> GgufFile {
        GgufFile::new("net.gguf", write_module(self, "net.", dtype, &Metadata::new(), Vec::new()).unwrap()).unwrap()
    }
}

#[test]
fn networks_round_trip_through_every_type() {
    let net = Net::new(&Device::flex());
    for (dtype, tolerance) in
        [(GgmlType::F32, 0.0), (GgmlType::F16, 5e-4), (GgmlType::Q8_0, 5e-3), (GgmlType::Q4_0, 0.13)]
    {
        let file = net.file(dtype);
        let stored = |name: &str| file.tensor(name).unwrap().unwrap();
        assert_eq!(stored("net.wide.weight").shape, [1280, 320]);
        assert_eq!(stored("net.wide.weight").dtype, dtype);
        assert_eq!(stored("net.conv.weight").shape, [5, 32, 3, 3]);
        assert_eq!(stored("net.conv.weight").dtype, dtype);
        assert_eq!(stored("net.norm.weight").dtype, GgmlType::F32);
        let narrow = stored("net.narrow.weight").dtype;
        assert_eq!(narrow, if dtype.is_quantized() { GgmlType::F16 } else { dtype });

        let loaded = load(Net::new(&Device::flex()), &file, "net.").unwrap();
        for ((name, shape, before), (_, _, after)) in save(&net, "net.").into_iter().zip(save(&loaded, "net.")) {
            let error = before.iter().zip(&after).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            let scale = before.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(error <= tolerance * scale, "{dtype} {name} {shape:?}: {error} of {scale}");
        }
    }
}

#[test]
fn loading_is_strict() {
    let device = Device::flex();
    let net = Net::new(&device);
    let file = net.file(GgmlType::F32);
    let missing = load(Net::new(&device), &file, "other.").unwrap_err();
    assert!(matches!(missing, Error::TensorMissing { name, .. } if name.starts_with("other.")));
    let linear = LinearConfig::new(320, 1280).with_bias(false).init(&device);
    let unexpected = load(linear, &file, "net.wide.").unwrap_err();
    assert!(matches!(unexpected, Error::TensorUnexpected { name, .. } if name == "net.wide.bias"));
    let linear = LinearConfig::new(1280, 320).init(&device);
    assert!(
        matches!(load(linear, &file, "net.wide.").unwrap_err(), Error::TensorShape { found, .. } if found[0] == 1280)
    );
}

/// A packed weight takes the bytes that it takes in the file; what it computes is tested in tests/quantized.rs.
#[test]
fn quantized_weights_stay_quantized() {
    let cpu = Device::flex();
    for (dtype, least) in [(GgmlType::Q8_0, 3), (GgmlType::Q4_0, 6)] {
        let file = Net::new(&cpu).file(dtype);
        let reference = load(Net::new(&cpu), &file, "net.").unwrap();
        let plain = reference.file(GgmlType::F32);
        for (kind, device) in devices() {
            let bytes = |file: &GgufFile| {
                device.sync().unwrap();
                device.memory_cleanup();
                let used = || device.memory_pool_usage().map(|usage| usage.bytes_in_use);
                let before = used();
                let net = load(Net::new(&device), file, "net.").unwrap();
                device.sync().unwrap();
                (net, used().zip(before).map(|(after, before)| after - before))
            };
            let (dense, as_f32) = bytes(&plain);
            let (net, packed) = bytes(&file);
            if let (Some(as_f32), Some(packed)) = (as_f32, packed) {
                println!("memory | {dtype} weights on {kind} | {packed} B, as f32 {as_f32} B");
                assert!(packed * least < as_f32, "{kind}: {packed} of {as_f32} bytes");
            }
            assert!(!dense.wide.is_packed() && net.wide.is_packed() && net.odd.is_packed() && net.conv.is_packed());
            // Its rows are not whole blocks, and the file has it in f16.
            assert!(!net.narrow.is_packed());
            for ((name, _, expected), (_, _, found)) in save(&reference, "").into_iter().zip(save(&net, "")) {
                assert!(expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs()), "{name} on {kind}");
            }
        }
    }
}

/// What is longer than a GPU is given at once comes there in pieces, and is whole.
#[test]
fn long_tensors_come_in_pieces() {
    // An odd number of blocks a row.
    let long = |device: &Device| Linear::from(LinearConfig::new(4128, 4096).with_bias(false).init(device));
    let net = long(&Device::flex());
    for dtype in GgmlType::ALL {
        let file = write_module(&net, "", dtype, &Metadata::new(), Vec::new()).unwrap();
        let file = GgufFile::new("net.gguf", file).unwrap();
        let stored = file.tensor("weight").unwrap().unwrap();
        let count = stored.shape.iter().product();
        let kept = if dtype.is_quantized() { dtype } else { GgmlType::F32 };
        assert!(kept.byte_len(count).unwrap() > PIECE);
        let expected = dtype.dequantize(&stored.bytes, count).unwrap();
        for (kind, device) in devices() {
            let loaded = load(long(&device), &file, "").unwrap();
            assert_eq!(loaded.is_packed(), dtype.is_quantized());
            assert!(save(&loaded, "")[0].2 == expected, "{dtype} on {kind}");
        }
    }
}

/// tests/oracle/gguf_files.py wrote the file with another implementation.
#[test]
fn gguf_files_agree_with_the_reference_implementation() {
    let path = format!("{}/tests/goldens/gguf_reference.gguf", env!("CARGO_MANIFEST_DIR"));
    let reference = std::fs::read(path).unwrap();
    let file = GgufFile::new("reference", reference.clone()).unwrap();
    let metadata = &file.header().metadata;
    let strings = |texts: &[&str]| Value::from_iter(texts.iter().copied());
    for (key, value) in [
        ("array.int32", Value::Array(vec![Value::I32(1), Value::I32(-2), Value::I32(3)])),
        ("array.string", strings(&["a", "", "红"])),
        ("general.architecture", Value::from("reference")),
        ("value.bool", Value::Bool(true)),
        ("value.float32", Value::F32(0.15625)),
        ("value.float64", Value::F64(0.1)),
        ("value.int16", Value::I16(-30000)),
        ("value.int32", Value::I32(-2000000000)),
        ("value.int64", Value::I64(-(1 << 62))),
        ("value.int8", Value::I8(-100)),
        ("value.string", Value::from("a red apple, 红苹果")),
        ("value.uint16", Value::U16(60000)),
        ("value.uint32", Value::U32(4000000000)),
        ("value.uint64", Value::U64(1 << 63)),
        ("value.uint8", Value::U8(200)),
    ] {
        assert_eq!(metadata.get(key), Some(&value), "{key}");
    }
    assert_eq!(metadata.len(), 15);

    let stored = |name: &str| file.tensor(name).unwrap().unwrap();
    let values = |name: &str| {
        let stored = stored(name);
        stored.dtype.dequantize(&stored.bytes, stored.shape.iter().product()).unwrap()
    };
    assert_eq!(stored("conv").shape, [4, 32, 3, 3]);
    for dtype in GgmlType::ALL {
        assert_eq!(stored(dtype.name()).dtype, dtype);
        assert_eq!(stored(dtype.name()).shape, [6, 96]);
        assert_eq!(dtype.quantize(&values("f32")).unwrap(), *stored(dtype.name()).bytes, "{dtype} as ggml packs it");
        if dtype.is_quantized() {
            assert_eq!(values(dtype.name()), values(&format!("{dtype}.dequantized")), "{dtype} as ggml reads it");
        }
    }

    // Written again, the file is the same to the last byte, so that whoever reads theirs reads ours.
    let mut order: Vec<_> = file.header().tensors.iter().collect();
    order.sort_by_key(|(_, info)| info.start);
    let plan = |(name, info): &(&String, &TensorInfo)| TensorPlan {
        name: name.to_string(),
        shape: info.shape.clone(),
        dtype: info.dtype,
    };
    let plans: Vec<_> = order.iter().map(plan).collect();
    let mut writer = GgufWriter::new(Vec::new(), metadata, &plans).unwrap();
    order.iter().for_each(|(name, _)| writer.tensor(&stored(name).bytes).unwrap());
    assert!(writer.finish().unwrap() == reference);
}
