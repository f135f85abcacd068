//! Weights: where they come from (files, HTTP), how they are stored (GGUF), and how a network takes them in.
//!
//! This room knows no network: a network is any burn module whose parameter paths are diffusers' tensor names.

pub mod gguf;
pub mod manifest;
mod module;
pub mod packed;
pub mod quant;
pub mod safetensors;
pub mod source;

pub use module::{StoredTensor, TensorSource, load, save, write_module};
