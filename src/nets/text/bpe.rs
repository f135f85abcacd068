//! CLIP's tokenizer: byte-level byte-pair encoding, as transformers' `CLIPTokenizer` does it.

use crate::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;
use unicode_normalization::UnicodeNormalization;

/// Tokens that CLIP's text towers see of a prompt.
pub const CONTEXT_LENGTH: usize = 77;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
const END_OF_WORD: &str = "</w>";

/// Turns a prompt into the token ids of a CLIP text tower.
///
/// A prompt is normalized (NFC, lower case), cut into words (letters, single digits, runs of other signs, English
/// contractions), and every word's UTF-8 bytes are merged pairwise, the pair that was learned first going first.
#[derive(Debug, Clone)]
pub struct BpeTokenizer {
    /// Ids of the 256 bytes inside a word, and at its end.
    bytes: Vec<[u32; 2]>,
    /// What a pair of tokens merges into: (rank, merged id); the lowest rank goes first.
    merges: HashMap<(u32, u32), (usize, u32)>,
    /// All tokens by id.
    tokens: HashMap<u32, String>,
    start: u32,
    end: u32,
}

impl BpeTokenizer {
    /// Reads the contents of `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn new(vocab_json: &[u8], merges_txt: &[u8]) -> Result<Self> {
        let vocab = serde_json::from_slice(vocab_json).map_err(|error| corrupt(format!("vocab.json: {error}")))?;
        let text = std::str::from_utf8(merges_txt).map_err(|error| corrupt(format!("merges.txt: {error}")))?;
        let merges = text.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
        Self::build(vocab, merges.map(str::to_owned).map(Merge::Line).collect())
    }

    /// Reads the contents of a `tokenizer.json`, into which newer checkpoints put both.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn from_tokenizer_json(json: &[u8]) -> Result<Self> {
        let TokenizerJson { mut model, added_tokens } =
            serde_json::from_slice(json).map_err(|error| corrupt(format!("tokenizer.json: {error}")))?;
        model.vocab.extend(added_tokens.into_iter().map(|token| (token.content, token.id)));
        Self::build(model.vocab, model.merges)
    }

    fn build(vocab: HashMap<String, u32>, merges: Vec<Merge>) -> Result<Self> {
        let id = |token: &str| vocab.get(token).copied().ok_or_else(|| corrupt(format!("no token `{token}`")));
        let ranked = |(rank, merge): (usize, &Merge)| {
            let (left, right) = merge.pair().ok_or_else(|| corrupt(format!("merge {rank} is not a pair")))?;
            Ok(((id(left)?, id(right)?), (rank, id(&format!("{left}{right}"))?)))
        };
        let bytes = alphabet().map(|sign| Ok([id(&sign.to_string())?, id(&format!("{sign}{END_OF_WORD}"))?]));
        let (start, end) = (id(START)?, id(END)?);
        let bytes = bytes.collect::<Result<_>>()?;
        // A pair listed twice keeps its last rank, as in the reference.
        let merges = merges.iter().enumerate().map(ranked).collect::<Result<_>>()?;
        let tokens = vocab.into_iter().filter(|(token, _)| !token.is_empty()).map(|(token, id)| (id, token));
        Ok(Self { bytes, merges, tokens: tokens.collect(), start, end })
    }

    /// Exactly `length` ids: start, as much of the text as fits, end, and `pad` as often as it takes. That is the end-of-text
    /// token for CLIP-L, 0 (`!`) for OpenCLIP bigG; in a prompt it is recognized as it stands, as start and end are.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is no token `pad`.
    pub fn encode(&self, text: &str, length: usize, pad: u32) -> Result<Vec<u32>> {
        let padding = self.tokens.get(&pad).ok_or_else(|| corrupt(format!("no token of the padding id {pad}")))?;
        let special = [(START, self.start), (END, self.end), (padding, pad)];
        let room = length.saturating_sub(2);
        let mut ids = vec![self.start];
        let mut rest = text;
        while !rest.is_empty() && ids.len() <= room {
            let found = special.iter().filter_map(|&(token, id)| Some((rest.find(token)?, token.len(), id)));
            // The first special token, or of several at one place the longest.
            let special = found.min_by_key(|&(at, length, _)| (at, usize::MAX - length));
            let (plain, token, after) = match special {
                Some((at, length, id)) => (&rest[..at], Some(id), &rest[at + length..]),
                None => (rest, None, ""),
            };
            self.encode_plain(plain, room, &mut ids);
            ids.extend(token);
            rest = after;
        }
        ids.truncate(room + 1);
        ids.push(self.end);
        ids.resize(length, pad);
        Ok(ids)
    }

    /// Appends the ids of a text without special tokens, until there are more than `room`.
    fn encode_plain(&self, text: &str, room: usize, ids: &mut Vec<u32>) {
        let text: String = text.nfc().flat_map(char::to_lowercase).collect();
        for word in words(&text) {
            if ids.len() > room {
                return;
            }
            ids.extend(self.merge(word));
        }
    }

    /// The ids of one word.
    fn merge(&self, word: &str) -> Vec<u32> {
        let last = word.len() - 1;
        let mut ids: Vec<u32> =
            word.bytes().enumerate().map(|(i, byte)| self.bytes[byte as usize][usize::from(i == last)]).collect();
        loop {
            let best = ids.windows(2).filter_map(|pair| self.merges.get(&(pair[0], pair[1])).map(|m| (m, pair)));
            let Some((&(_, merged), pair)) = best.min_by_key(|((rank, _), _)| *rank) else {
                return ids;
            };
            let pair = [pair[0], pair[1]];
            let mut shorter = Vec::with_capacity(ids.len() - 1);
            let mut rest = ids.as_slice();
            while let Some((&first, after)) = rest.split_first() {
                let found = rest.starts_with(&pair);
                shorter.push(if found { merged } else { first });
                rest = if found { &rest[2..] } else { after };
            }
            ids = shorter;
        }
    }
}

#[derive(Deserialize)]
struct TokenizerJson {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// A pair of tokens: two strings, or one with a space between.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

impl Merge {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pair(left, right) => Some((left, right)),
            Self::Line(line) => line.split_once(' ').filter(|(_, right)| !right.contains(' ')),
        }
    }
}

fn corrupt(why: String) -> Error {
    Error::Corrupt { what: "tokenizer".into(), why }
}

/// The visible character that stands for each byte in the vocabulary, GPT-2's: itself where it is printable, else one of
/// those from 256 on.
fn alphabet() -> impl Iterator<Item = char> {
    let mut hidden = 256..;
    (0u8..=255).map(move |byte| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        _ => hidden.next().and_then(char::from_u32).expect("68 bytes are not printable"),
    })
}

/// Cuts a normalized text into words: what the reference's regular expression
/// `'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+` matches, its written-out special tokens falling in three.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(special) = [START, END].into_iter().find(|special| rest.starts_with(special)) {
            let inner = special.len() - 2;
            words.extend([&rest[..2], &rest[2..inner], &rest[inner..special.len()]]);
            rest = rest[special.len()..].trim_start();
            continue;
        }
        let run = |belongs: fn(char) -> bool| rest.find(|sign| !belongs(sign)).unwrap_or(rest.len());
        let contraction = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].into_iter().find(|end| rest.starts_with(end));
        let length = match contraction {
            Some(contraction) => contraction.len(),
            None if is_letter(first) => run(is_letter),
            None if first.is_numeric() => first.len_utf8(),
            None => run(|sign| !sign.is_whitespace() && !is_letter(sign) && !sign.is_numeric()),
        };
        words.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    words
}

/// Unicode's category L. The standard library knows the property Alphabetic, which also holds letter numbers, marks and
/// the circled and squared letters.
fn is_letter(sign: char) -> bool {
    sign.is_alphabetic()
        && !sign.is_numeric()
        && !unicode_normalization::char::is_combining_mark(sign)
        && !matches!(sign, 'Ⓐ'..='ⓩ' | '\u{1F130}'..='\u{1F149}' | '\u{1F150}'..='\u{1F169}' | '\u{1F170}'..='\u{1F189}')
}
