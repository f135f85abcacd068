//! The unigram tokenizer against SentencePiece 0.2.3 on the sentence encoder's own vocabulary.

use pangu_draw::nets::text::unigram::{MAX_CHARS, Unigram, Vocabulary};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    vocabulary: Vocabulary,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("goldens/unigram.json")).expect("goldens are valid")
}

#[test]
fn agrees_with_sentencepiece() {
    let Golden { vocabulary, texts } = golden();
    let tokenizer = Unigram::new(vocabulary).expect("a sound vocabulary");
    for Text { text, ids } in &texts {
        assert_eq!(&tokenizer.encode(text).expect("short"), ids, "{text:?}");
    }
    println!("{} texts agree", texts.len());
}

#[test]
fn refuses_long_text_and_unsound_vocabularies() {
    let vocabulary = golden().vocabulary;
    let tokenizer = Unigram::new(vocabulary.clone()).expect("a sound vocabulary");
    assert!(tokenizer.encode(&"果".repeat(MAX_CHARS)).is_ok());
    assert_eq!(tokenizer.encode(&"a".repeat(MAX_CHARS + 1)).expect_err("too long").code(), "invalid");
    assert_eq!(tokenizer.encode("").expect("empty"), [Unigram::BEGIN, Unigram::END]);

    let missing_score = Vocabulary { scores: vocabulary.scores[1..].to_vec(), ..vocabulary.clone() };
    let infinite = Vocabulary { unknown_score: f32::NEG_INFINITY, ..vocabulary };
    let empty = Vocabulary { pieces: vec![], scores: vec![], unknown_score: -20.0 };
    for unsound in [missing_score, infinite, empty] {
        assert_eq!(Unigram::new(unsound).expect_err("unsound").code(), "corrupt");
    }
}
