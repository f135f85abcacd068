//! The networks, one file each, with diffusers' / transformers' layouts and tensor names.
//!
//! Every network is a pair: a configuration (data, serializable, with named constructors for models people know)
//! and the module it initializes: `UNetConfig::sd15().init(&device)`. Weights come in through
//! [`crate::weights::load`], by tensor name. Shapes are written `[batch, channels, height, width]`.

pub mod autoencoder_kl;
pub mod autoencoder_tiny;
mod blocks;
pub mod controlnet;
pub(crate) mod kernels;
pub mod layers;
mod pace;
pub mod picture_encoder;
pub mod precision;
pub mod text;
pub mod unet;

pub use pace::{Pace, Progress, Waiting, now};
