//! How much models that draw along weigh.

use serde::{Deserialize, Serialize};

/// The weight `d` of a foreign model, which may fall as the noise does.
///
/// An autoencoder's round trip error enters `eps~` multiplied by `1 / sigma`, and a foreign model knows nothing of the home
/// model's finest detail: late steps are better left to the home model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strength {
    /// The weight where noise is all there is, in `[0, 1]`.
    pub weight: f64,
    /// The noise level below which it is 0.
    pub until: f64,
    /// How it falls until there.
    pub falloff: Falloff,
}

impl Strength {
    /// `d(sigma)`.
    pub fn at(&self, sigma: f64) -> f64 {
        let share = match self.falloff {
            _ if sigma < self.until || sigma == 0.0 => 0.0,
            Falloff::Constant => 1.0,
            Falloff::Noise => sigma * sigma / (sigma * sigma + 1.0),
        };
        self.weight * share
    }
}

/// How a weight falls with the noise level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Falloff {
    /// It does not.
    #[default]
    Constant,
    /// As the share of noise in the latent's variance, `1 - abar = sigma^2 / (sigma^2 + 1)`.
    Noise,
}
