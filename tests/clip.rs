//! CLIP's text tower and tokenizer against transformers' (goldens from tests/oracle/clip.py).

mod common;

use burn::tensor::Device;
use common::{assert_close, devices, golden, values};
use pangu_draw::{
    nets::{
        Pace,
        text::{
            bpe::{BpeTokenizer, CONTEXT_LENGTH},
            clip::ClipTextConfig,
        },
    },
    weights::load,
};
use serde::Deserialize;

#[test]
fn towers_match_transformers() {
    for name in ["clip_quick_gelu", "clip_gelu_projection", "clip_legacy_eos"] {
        let golden = golden(name);
        let config: ClipTextConfig = serde_json::from_str(&golden.metadata()["config"]).unwrap();
        let (shape, ids) = values(&golden, "input.ids");
        let ids: Vec<Vec<u32>> = ids.chunks(shape[1]).map(|row| row.iter().map(|&id| id as u32).collect()).collect();
        for (kind, device) in devices() {
            let model = load(config.init(&device).unwrap(), &golden, "weights.").unwrap();
            let output = pollster::block_on(model.forward(&ids, &Pace::free())).unwrap();
            let expected = |key: &str| values(&golden, &format!("output.{key}")).1;
            let label = |key: &str| format!("{name} {key} {kind}");
            let (last, penultimate) = (output.last_hidden_state, output.penultimate_hidden_state);
            assert_close(&label("last"), last, &expected("last_hidden_state"), 1e-4);
            assert_close(&label("penultimate"), penultimate, &expected("penultimate_hidden_state"), 1e-4);
            match output.text_embeds {
                Some(embeds) => assert_close(&label("text_embeds"), embeds, &expected("text_embeds"), 1e-4),
                None => assert_close(&label("pooled"), output.pooled, &expected("pooled"), 1e-4),
            }
        }
    }
}

#[test]
fn wrong_ids_are_refused() {
    let config = ClipTextConfig { vocab_size: 10, hidden_size: 8, num_hidden_layers: 1, ..Default::default() };
    let model = config.init(&Device::flex()).unwrap();
    for ids in [vec![], vec![vec![]], vec![vec![1, 2], vec![1]], vec![vec![10]], vec![vec![0; 78]]] {
        assert_eq!(pollster::block_on(model.forward(&ids, &Pace::free())).unwrap_err().code(), "invalid");
    }
    let heads = ClipTextConfig { num_attention_heads: 3, ..config };
    assert_eq!(heads.init(&Device::flex()).unwrap_err().code(), "unsupported");
}

#[derive(Deserialize)]
struct Tokenized {
    vocab_json: String,
    merges_txt: String,
    tokenizer_json: String,
    texts: Vec<String>,
    ids_end: Vec<Vec<u32>>,
    ids_bang: Vec<Vec<u32>>,
}

fn tokenized() -> Tokenized {
    let path = format!("{}/tests/goldens/clip_bpe.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn tokens_match_transformers() {
    let golden = tokenized();
    let (vocab, merges) = (golden.vocab_json.as_bytes(), golden.merges_txt.as_bytes());
    let end = *golden.ids_end[0].last().unwrap();
    let tokenizers = [
        ("vocab.json", BpeTokenizer::new(vocab, merges)),
        ("tokenizer.json", BpeTokenizer::from_tokenizer_json(golden.tokenizer_json.as_bytes())),
    ];
    for (what, tokenizer) in tokenizers {
        let tokenizer = tokenizer.unwrap();
        for (pad, expected) in [(end, &golden.ids_end), (0, &golden.ids_bang)] {
            for (text, ids) in golden.texts.iter().zip(expected) {
                let found = tokenizer.encode(text, CONTEXT_LENGTH, pad).unwrap();
                assert_eq!(&found, ids, "{what}, padded with {pad}: {text:?}");
            }
        }
        assert_eq!(tokenizer.encode("a", CONTEXT_LENGTH, 1_000_000).unwrap_err().code(), "corrupt");
    }
}

#[test]
fn damaged_tokenizers_are_refused() {
    let golden = tokenized();
    let (vocab, merges) = (golden.vocab_json.as_str(), golden.merges_txt.as_str());
    let truncated = &vocab[..vocab.len() / 2];
    let without_end = vocab.replace("<|endoftext|>", "<|end|>");
    let without_byte = vocab.replacen("\"A\"", "\"AAAA\"", 1);
    let one_part = format!("{merges}lonely\n");
    let unknown = format!("{merges}no such\n");
    for (vocab, merges) in
        [(truncated, merges), (&without_end, merges), (&without_byte, merges), (vocab, &one_part), (vocab, &unknown)]
    {
        let error = BpeTokenizer::new(vocab.as_bytes(), merges.as_bytes()).unwrap_err();
        assert_eq!(error.code(), "corrupt", "{error}");
    }
    assert_eq!(BpeTokenizer::new(vocab.as_bytes(), &[0xFF]).unwrap_err().code(), "corrupt");
    assert_eq!(BpeTokenizer::from_tokenizer_json(b"{}").unwrap_err().code(), "corrupt");
}
