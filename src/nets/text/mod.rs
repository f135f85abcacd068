//! Text encoders and their tokenizers.

pub mod bpe;
pub mod clip;
pub mod sentence;
pub mod unigram;
