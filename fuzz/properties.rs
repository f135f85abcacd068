//! What must hold whatever the bytes are. The fuzzers look for bytes of which it does not; tests/corpus.rs goes through those
//! that they found interesting.

use pangu_draw::{
    Error,
    diffusion::schedule::Schedule,
    pipeline::config::PipelineConfig,
    weights::{
        TensorSource,
        gguf::{GgufFile, GgufHeader, GgufWriter, TensorInfo, TensorPlan},
        manifest::Manifest,
    },
};
use serde_json::Value;
use std::ops::Range;

/// Tensors of more bytes are not read number by number.
const SMALL: usize = 1 << 16;

fn expected(error: &Error, codes: &[&str]) {
    assert!(codes.contains(&error.code()), "{error}");
    assert!(error.to_string().len() < 1 << 20, "a message of {} bytes", error.to_string().len());
}

/// A GGUF file is refused in words, or every tensor can be read and written again. Answers whether it was taken.
pub fn gguf(bytes: &[u8]) -> bool {
    let beginning = |end: usize| GgufHeader::parse("file", &bytes[..end], bytes.len());
    let file = match GgufFile::new("file", bytes.into()) {
        Ok(file) => file,
        Err(error) => {
            expected(&error, &["corrupt", "unsupported"]);
            assert!(!matches!(beginning(bytes.len() / 2), Ok(Some(_))), "no beginning is better than its file");
            return false;
        }
    };
    let header = file.header();
    let start = header.data_start.min(bytes.len());
    for (end, enough) in [(start, true), (start / 2, false)] {
        let read = beginning(end).expect("no beginning is worse than its file");
        assert!(read.is_some() || !enough, "the header is enough to read the header");
        assert!(read.is_none_or(|read| read.tensors == header.tensors));
    }
    let mut free = header.data_start;
    for (name, info) in by_start(&file) {
        assert!(info.start >= free && info.start + info.len <= bytes.len(), "{name} has its bytes for itself");
        free = info.start + info.len;
        let stored = file.tensor(name).unwrap().unwrap();
        assert_eq!((&stored.shape, stored.dtype), (&info.shape, info.dtype));
        assert_eq!(*stored.bytes, bytes[info.start..info.start + info.len]);
        let count = stored.shape.iter().product();
        assert_eq!(stored.dtype.byte_len(count), Some(info.len));
        if info.len <= SMALL {
            assert_eq!(stored.dtype.dequantize(&stored.bytes, count).unwrap().len(), count);
        }
    }
    if let Some(again) = written(&file) {
        let file = GgufFile::new("again", again.clone()).expect("what was written can be read");
        assert!(written(&file) == Some(again), "nothing is lost on the way");
    }
    true
}

fn by_start(file: &GgufFile) -> Vec<(&String, &TensorInfo)> {
    let mut tensors: Vec<_> = file.header().tensors.iter().collect();
    tensors.sort_by_key(|(_, info)| info.start);
    tensors
}

/// The file as this engine writes it; some foreign ones it cannot.
fn written(file: &GgufFile) -> Option<Vec<u8>> {
    let tensors = by_start(file);
    if !tensors.iter().all(|(_, info)| TensorPlan::fits(&info.shape, info.dtype)) {
        return None;
    }
    let plan = |(name, info): &(&String, &TensorInfo)| TensorPlan {
        name: name.to_string(),
        shape: info.shape.clone(),
        dtype: info.dtype,
    };
    let plans: Vec<_> = tensors.iter().map(plan).collect();
    let mut writer = GgufWriter::new(Vec::new(), &file.header().metadata, &plans).expect("all of it fits");
    for (name, _) in tensors {
        writer.tensor(&file.tensor(name).unwrap().unwrap().bytes).expect("as planned");
    }
    Some(writer.finish().expect("all were written"))
}

/// A manifest is refused in words, or adds up and survives being written; likewise its pipeline. Answers whether the manifest
/// was taken.
pub fn manifest(bytes: &[u8]) -> bool {
    let manifest = match Manifest::from_json(bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            expected(&error, &["corrupt", "unsupported"]);
            return false;
        }
    };
    let again = Manifest::from_json(&manifest.to_json().unwrap()).expect("what was written can be read");
    assert!(same(&again.pipeline, &manifest.pipeline));
    assert_eq!(Manifest { pipeline: manifest.pipeline.clone(), ..again }, manifest);
    for component in &manifest.components {
        assert_eq!(manifest.component(&component.role).unwrap(), component);
        let chunks: Vec<Range<u64>> = manifest.chunks(component).collect();
        assert_eq!(chunks.len(), component.sha256.len());
        assert_eq!((chunks[0].start, chunks[chunks.len() - 1].end), (0, component.bytes));
        assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].start < pair[0].end));
    }
    match PipelineConfig::from_json(&manifest.pipeline) {
        Ok(config) => pipeline(&config),
        Err(error) => expected(&error, &["corrupt"]),
    }
    true
}

/// Whether two values are equal but for the last digit of a number, which serde_json does not always read as it was written.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && same(a, b))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= 1e-15 * a.abs().max(f64::MIN_POSITIVE)
        }
        _ => a == b,
    }
}

fn pipeline(config: &PipelineConfig) {
    let json = serde_json::to_value(config).expect("a pipeline is plain data");
    assert_eq!(&PipelineConfig::from_json(&json).expect("what was written can be read"), config);
    assert!(!config.components().is_empty());
    let image = &config.image;
    for size in [[image.height, image.width], [image.max, image.multiple], [image.multiple, image.max]] {
        assert!(config.own_size(size).iter().all(|&side| side > 0 && side.is_multiple_of(image.multiple)));
    }
    match Schedule::new(&config.schedule) {
        Ok(schedule) => match schedule.sigmas(config.schedule.timestep_spacing, config.defaults.steps) {
            Ok(sigmas) => assert_eq!(sigmas.len(), config.defaults.steps + 1),
            Err(error) => expected(&error, &["invalid"]),
        },
        Err(error) => expected(&error, &["invalid"]),
    }
}
