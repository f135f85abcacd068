//! Weights on their way: files, servers, quantized matrices on the GPU.

mod common;

use burn::{
    module::Module,
    nn::{LayerNorm, LayerNormConfig, LinearConfig, conv::Conv2dConfig},
    tensor::Device,
};
use common::devices;
use pangu_draw::{
    Error, Result,
    nets::layers::{Conv2d, Linear},
    weights::{
        TensorSource,
        gguf::{self, GgufFile, GgufWriter, Metadata, TensorInfo, TensorPlan, Value},
        load,
        manifest::{self, Component, Manifest, Title},
        quant::GgmlType,
        save,
        source::{FolderSource, HttpSource, MemorySource, Source, load_component},
        write_module,
    },
};
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
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
    assert!(matches!(missing, Error::TensorMissing { name, .. } if name == "other.wide.weight"));
    let linear = LinearConfig::new(320, 1280).with_bias(false).init(&device);
    let unexpected = load(linear, &file, "net.wide.").unwrap_err();
    assert!(matches!(unexpected, Error::TensorUnexpected { name, .. } if name == "net.wide.bias"));
    let linear = LinearConfig::new(1280, 320).init(&device);
    assert!(
        matches!(load(linear, &file, "net.wide.").unwrap_err(), Error::TensorShape { found, .. } if found == [1280, 320])
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

/// Two components in memory, in chunks of 1000 bytes.
fn model() -> (Manifest, MemorySource) {
    let net = Net::new(&Device::flex());
    let metadata = Metadata::from([(gguf::CONFIG.into(), Value::from(r#"{"width": 320}"#))]);
    let folder = scratch("model");
    let mut source = MemorySource::default();
    let mut components = Vec::new();
    for (role, dtype) in [("first", GgmlType::Q8_0), ("second", GgmlType::Q4_0)] {
        let file = format!("{role}.gguf");
        let bytes = write_module(&net, "", dtype, &metadata, Vec::new()).unwrap();
        std::fs::write(folder.join(&file), &bytes).unwrap();
        components.push(Component::of_file(&folder, role, "Net", &file, 1000).unwrap());
        source.0.insert(file, bytes);
    }
    let manifest = Manifest {
        format: manifest::FORMAT,
        name: "test".into(),
        title: Title { en: "Test".into(), zh: "测试".into() },
        licence: "MIT".into(),
        attribution: vec![],
        chunk_bytes: 1000,
        components,
        pipeline: serde_json::Value::Null,
    };
    source.0.insert(manifest::FILE.into(), manifest.to_json().unwrap());
    std::fs::remove_dir_all(folder).unwrap();
    (manifest, source)
}

fn scratch(name: &str) -> std::path::PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let unique = format!("pangu-draw-{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(unique);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Loads a whole model, checking that progress is exact.
fn load_all(source: &dyn Source) -> Result<Vec<GgufFile>> {
    pollster::block_on(async {
        let manifest = Manifest::load(source).await?;
        let mut files = Vec::new();
        for component in &manifest.components {
            let mut seen = Vec::new();
            let mut progress = |bytes| {
                seen.push(bytes);
                Ok(())
            };
            files.push(load_component(source, &manifest, &component.role, &mut progress).await?);
            let expected: Vec<u64> = manifest.chunks(component).map(|range| range.end).collect();
            assert_eq!(seen, expected);
            assert_eq!(seen.last(), Some(&component.bytes));
        }
        Ok(files)
    })
}

#[test]
fn models_load_from_memory_and_from_a_folder() {
    let (manifest, memory) = model();
    assert_eq!(pollster::block_on(Manifest::load(&memory)).unwrap(), manifest);
    let folder = scratch("folder");
    memory.0.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
    let sources: [&dyn Source; 2] = [&memory, &FolderSource(folder.clone())];
    for source in sources {
        let files = load_all(source).unwrap();
        assert_eq!(files.len(), 2);
        assert_eq!(files[0].config::<serde_json::Value>().unwrap()["width"], 320);
        assert_eq!(files[0].config::<Vec<u8>>().unwrap_err().code(), "corrupt");
        load(Net::new(&Device::flex()), &files[1], "").unwrap();
    }
    std::fs::remove_dir_all(folder).unwrap();
    let lost = pollster::block_on(Manifest::load(&FolderSource("/nonexistent".into()))).unwrap_err();
    assert_eq!(lost.code(), "read");
}

#[test]
fn damage_is_found_before_it_is_used() {
    let (_, memory) = model();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut source = memory.clone();
        change(source.0.get_mut("second.gguf").unwrap());
        load_all(&source).unwrap_err()
    };
    let flipped = with(&|bytes| bytes[2500] ^= 1);
    assert!(matches!(flipped, Error::Checksum { file, chunk: 2 } if file == "second.gguf"));
    assert_eq!(with(&|bytes| bytes.truncate(2500)).code(), "read");
    assert_eq!(with(&|bytes| bytes.clear()).code(), "read");
    let mut source = memory.clone();
    source.0.remove("second.gguf");
    assert_eq!(load_all(&source).unwrap_err().code(), "read");

    let manifest = pollster::block_on(Manifest::load(&memory)).unwrap();
    let stop = &mut |_| Err(Error::Cancelled);
    assert_eq!(pollster::block_on(load_component(&memory, &manifest, "first", stop)).unwrap_err().code(), "cancelled");
}

/// Serves files; answers with the requested range only if `ranges`. Counts requests.
fn serve(files: MemorySource, ranges: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/models/test", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let Some(request) = lines.next() else { continue };
            let start = lines.fold(None, |start, line| {
                let line = line.to_ascii_lowercase();
                line.strip_prefix("range: bytes=").map(|range| range.trim_end_matches('-').parse().unwrap()).or(start)
            });
            count.fetch_add(1, Ordering::Relaxed);
            let path = request.split(' ').nth(1).unwrap();
            let file = path.strip_prefix("/models/test/").and_then(|name| files.0.get(name));
            let (status, body) = match (file, start) {
                (None, _) => ("404 Not Found", &[][..]),
                (Some(file), Some(start)) if ranges => ("206 Partial Content", &file[start..]),
                (Some(file), _) => ("200 OK", &file[..]),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // A client that has what it wanted may hang up.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    (url, requests)
}

#[test]
fn models_load_over_http() {
    let (manifest, memory) = model();
    for ranges in [true, false] {
        let (url, requests) = serve(memory.clone(), ranges);
        for base in [url.clone(), format!("{url}/")] {
            let files = load_all(&HttpSource::new(&base)).unwrap();
            load(Net::new(&Device::flex()), &files[0], "").unwrap();
        }
        assert_eq!(requests.load(Ordering::Relaxed), 2 * 3, "one request a file");

        let source = HttpSource::new(&url);
        let whole = &memory.0["first.gguf"];
        for range in [1500..2500, 10..20, 20..30, 0..5] {
            let part = pollster::block_on(source.read("first.gguf", range.clone())).unwrap();
            assert_eq!(part, whole[range.start as usize..range.end as usize]);
        }
        let lost = pollster::block_on(source.read("third.gguf", 0..10)).unwrap_err();
        assert!(matches!(lost, Error::Read { what, why } if what.ends_with("third.gguf") && why.contains("404")));
    }
    assert_eq!(manifest.components.len(), 2);
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
