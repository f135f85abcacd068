//! From latents to decoded values: a model's autoencoder, whatever kind it is of.

use super::config::LatentConfig;
use crate::{
    Error, Result,
    nets::{
        Pace,
        autoencoder_kl::{AutoencoderKlConfig, KlDecoder},
        autoencoder_tiny::{AutoencoderTinyConfig, TinyDecoder},
    },
    weights::{self, gguf::GgufFile},
};
use burn::tensor::{Device, Tensor, TensorData};

/// A latent space's way to pixels.
pub struct Decoder {
    net: Net,
    /// `[1, channels or 1, 1, 1]`.
    shift: Tensor<4>,
    scale: Tensor<4>,
}

enum Net {
    Tiny(Box<TinyDecoder>),
    Kl(Box<KlDecoder>),
}

impl Decoder {
    /// Loads the decoder component.
    ///
    /// # Errors
    /// As [`weights::load`]; [`Error::Unsupported`] for a network this engine does not know.
    pub fn load(file: &GgufFile, network: &str, latent: &LatentConfig, device: &Device) -> Result<Self> {
        let net = match network {
            "AutoencoderTiny" => {
                let config: AutoencoderTinyConfig = file.config()?;
                Net::Tiny(Box::new(weights::load(config.init_decoder(device)?, file, "decoder.")?))
            }
            "AutoencoderKL" => {
                let config: AutoencoderKlConfig = file.config()?;
                Net::Kl(Box::new(weights::load(config.init_decoder(device)?, file, "")?))
            }
            other => return Err(Error::Unsupported(format!("decoder network `{other}`"))),
        };
        let per_channel =
            |values: &[f32]| Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len(), 1, 1]), device);
        Ok(Self { net, shift: per_channel(&latent.shift), scale: per_channel(&latent.scale) })
    }

    /// `latents`: `[batch, channels, height, width]` as the experts see them -> `[batch, 3 or 4, height f, width f]`.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub async fn decode(&self, latents: Tensor<4>, pace: &Pace) -> Result<Tensor<4>> {
        let latents = latents / self.scale.clone() + self.shift.clone();
        match &self.net {
            Net::Tiny(net) => net.decode(latents, pace).await,
            Net::Kl(net) => net.decode(latents, pace).await,
        }
    }
}
