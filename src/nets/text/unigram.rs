//! SentencePiece's unigram tokenizer (Kudo 2018), as the sentence encoder uses it.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use unicode_normalization::UnicodeNormalization;

/// Longest prompt that is encoded, in characters; a longer one is refused.
pub const MAX_CHARS: usize = 1000;

/// What SentencePiece writes for a space, and in front of the first word.
const SPACE: char = '\u{2581}';

/// The fullwidth tilde, which SentencePiece's `nmt_nfkc` rules exempt from NFKC.
const FULLWIDTH_TILDE: char = '\u{ff5e}';

/// The pieces of a unigram model: data, as it is stored.
///
/// Ids are positions. The first three pieces are reserved and never match text: unknown, begin and end of sentence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vocabulary {
    /// The pieces, with U+2581 for spaces.
    pub pieces: Vec<String>,
    /// Log-probability of each piece.
    pub scores: Vec<f32>,
    /// Log-probability of a character that no piece covers.
    pub unknown_score: f32,
}

/// Splits text into the most probable sequence of pieces.
#[derive(Debug, Clone)]
pub struct Unigram {
    vocabulary: Vocabulary,
    ids: HashMap<String, u32>,
    longest: usize,
}

impl Unigram {
    /// Id of what no piece covers; a run of such characters is one token.
    pub const UNKNOWN: u32 = 0;
    /// Id at the start of every sentence.
    pub const BEGIN: u32 = 1;
    /// Id at the end of every sentence.
    pub const END: u32 = 2;

    /// Indexes a vocabulary.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there are fewer than three pieces, not as many scores as pieces, or a score that is not finite.
    pub fn new(vocabulary: Vocabulary) -> Result<Self> {
        let Vocabulary { pieces, scores, unknown_score } = &vocabulary;
        let corrupt = |why: &str| Err(Error::Corrupt { what: "vocabulary".into(), why: why.into() });
        if pieces.len() <= Self::END as usize || pieces.len() > u32::MAX as usize {
            return corrupt("the reserved pieces are missing");
        }
        if pieces.len() != scores.len() {
            return corrupt("pieces and scores differ in number");
        }
        if !scores.iter().chain([unknown_score]).all(|score| score.is_finite()) {
            return corrupt("a score is not finite");
        }
        let text_pieces = pieces.iter().enumerate().skip(Self::END as usize + 1);
        let ids: HashMap<_, _> = text_pieces.map(|(id, piece)| (piece.clone(), id as u32)).collect();
        let longest = ids.keys().map(|piece| piece.chars().count()).max().unwrap_or(0);
        Ok(Self { vocabulary, ids, longest })
    }

    /// The vocabulary this tokenizer was made from.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The ids of `text` between [`Self::BEGIN`] and [`Self::END`]; the empty text has only these two.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `text` is longer than [`MAX_CHARS`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.chars().nth(MAX_CHARS).is_some() {
            return Err(Error::Invalid {
                parameter: "prompt",
                why: format!("it is longer than {MAX_CHARS} characters; shorten it"),
            });
        }
        let mut ids = vec![Self::BEGIN];
        for id in self.segment(&normalize(text)) {
            if id != Self::UNKNOWN || ids.last() != Some(&Self::UNKNOWN) {
                ids.push(id);
            }
        }
        ids.push(Self::END);
        Ok(ids)
    }

    /// Viterbi search: among all ways to cut `text` into pieces, the one with the greatest sum of scores.
    fn segment(&self, text: &str) -> Vec<u32> {
        #[derive(Clone, Copy)]
        struct Best {
            score: f32,
            start: usize,
            id: u32,
        }
        let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let count = bounds.len() - 1;
        let mut best = vec![Best { score: f32::NEG_INFINITY, start: 0, id: Self::UNKNOWN }; count + 1];
        best[0].score = 0.0;
        for start in 0..count {
            let mut reach = |end: usize, id: u32, score: f32| {
                let score = best[start].score + score;
                if score > best[end].score {
                    best[end] = Best { score, start, id };
                }
            };
            let longest = (start + self.longest).min(count);
            let mut known = false;
            for end in start + 1..=longest {
                if let Some(&id) = self.ids.get(&text[bounds[start]..bounds[end]]) {
                    reach(end, id, self.vocabulary.scores[id as usize]);
                    known |= end == start + 1;
                }
            }
            if !known {
                reach(start + 1, Self::UNKNOWN, self.vocabulary.unknown_score);
            }
        }
        let mut ids = Vec::new();
        let mut end = count;
        while end > 0 {
            ids.push(best[end].id);
            end = best[end].start;
        }
        ids.reverse();
        ids
    }
}

/// SentencePiece's `nmt_nfkc` normalization: NFKC, whitespace of any kind collapsed, a [`SPACE`] before every word.
fn normalize(text: &str) -> String {
    let spaced = text.replace(is_space, " ");
    let composed: Vec<String> = spaced.split(FULLWIDTH_TILDE).map(|part| part.nfkc().collect()).collect();
    let composed = composed.join("\u{ff5e}");
    composed.split(' ').filter(|word| !word.is_empty()).map(|word| format!("{SPACE}{word}")).collect()
}

/// The characters that `nmt_nfkc` takes for spaces beyond those NFKC does; with [`SPACE`] itself, so that a prompt
/// cannot spell it.
fn is_space(c: char) -> bool {
    matches!(
        c,
        '\t' | '\n' | '\u{c}' | '\r' | '\u{1680}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
    ) || matches!(c, SPACE | '\u{feff}' | '\u{fffd}')
}
