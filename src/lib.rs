//! PanGu-Draw (arXiv 2312.16486) in Rust: text-to-image diffusion with *time-decoupled* structure and texture
//! experts and *Coop-Diffusion*, natively and in a browser tab on WebGPU.
//!
//! The whole crate speaks one language (Karras et al. 2022): a [`diffusion::Denoiser`] takes a noisy latent
//! `x = x0 + sigma * n` at noise level `sigma` and answers its estimate of the clean latent `x0`.
//! Everything PanGu-Draw adds is composition of denoisers.
//!
//! | room | what is in it |
//! |---|---|
//! | [`weights`] | GGUF files, quantization, manifests, sources of bytes, the store of chunks, loading a network strictly by tensor name while it arrives |
//! | [`nets`] | the networks, one file each, with diffusers' layouts and tensor names |
//! | [`diffusion`] | noise schedules, the denoiser trait, network wrappers, guidance, samplers, seeded noise |
//! | [`device`] | choosing a GPU or the CPU |
//! | [`decoupled`] | the time-decoupled generator: a denoiser made of two |
//! | [`coop`] | Coop-Diffusion: models with different latent spaces and resolutions draw one picture |
//! | [`control`] | what of a picture steers a drawing: its outline |
//! | [`pixels`] | pictures as tensors, and how they are scaled |
//! | [`pipeline`] | a request in, events and an image out |
//! | `train` | (feature `train`) data, captions, training loops |
//! | `web` | (wasm) the JavaScript face |
//! | `cli` | (feature `cli`) the command line |
//!
//! Arrows point one way: faces -> pipeline -> (decoupled, coop, control) -> diffusion -> nets -> weights.
#![deny(missing_docs)]

pub mod control;
pub mod coop;
pub mod decoupled;
pub mod device;
pub mod diffusion;
mod error;
mod image;
pub mod nets;
pub mod pipeline;
pub mod pixels;
pub mod weights;

#[cfg(all(feature = "cli", not(target_arch = "wasm32")))]
pub mod cli;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
pub mod train;
#[cfg(target_arch = "wasm32")]
pub mod web;

pub use error::{Error, Result};
pub use image::Image;
