//! Diffusion as composition of denoisers: schedules, network wrappers, guidance, masks, samplers, seeded noise.

mod denoiser;
pub mod guidance;
pub mod mask;
mod network;
pub mod noise;
pub mod samplers;
pub mod schedule;

pub use denoiser::{Cond, Denoiser, Denoising};
pub use network::{Network, NetworkDenoiser};
