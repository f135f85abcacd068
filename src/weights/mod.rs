//! Weights: where they come from (files, HTTP), where they are kept, how they are written down (GGUF), and how a network takes
//! them in, tensor by tensor while they arrive.
//!
//! This room knows no network: a network is any burn module whose parameter paths are diffusers' tensor names.

mod arrival;
mod depot;
pub mod gguf;
pub mod http;
pub mod manifest;
mod module;
pub mod packed;
pub mod quant;
pub mod safetensors;
pub mod source;
pub mod store;
mod tensor;
mod traffic;

pub use arrival::Arrival;
#[cfg(feature = "cli")]
pub(crate) use depot::turn;
pub use depot::{Depot, stock, watched};
pub use module::{PIECE, load, save, write_module};
pub use tensor::{StoredTensor, TensorSource};
pub use traffic::{LoadProgress, Traffic};
