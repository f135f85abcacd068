//! Sub-module 1 of Coop-Diffusion: models with different latent spaces denoise together (PanGu-Draw, Algorithm 1).

pub use super::strength::{Falloff, Strength};

use super::{Opening, Participant};
use crate::{
    Error, Result,
    diffusion::{Cond, Denoiser, Denoising},
    nets::Pace,
    pixels::Upsampler,
};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::{cell::RefCell, fmt, str::FromStr};

/// Algorithm 1 as one denoiser, over all models' latents at once.
///
/// The paper walks two latents, `z` of the home model and `z'` of the foreign one, down one schedule:
///
/// | line | of the paper | here, with `eps = (x - x0) / sigma` |
/// |---|---|---|
/// | 1 | `eps' = eps'_theta(z')`, `z0' = (z' - sqrt(1 - abar) eps') / sqrt(abar)` | `x0' = foreign(x', sigma)` |
/// | 2 | `x0' = D'(z0')`, `z0~ = E(x0')` | `x0~ = E(D'(x0'))` |
/// | 3 | `eps~ = (z - sqrt(abar) z0~) / sqrt(1 - abar)` | - |
/// | 4 | `eps_fuse = d eps~ + (1 - d) eps` | `x0_fuse = d x0~ + (1 - d) x0` |
/// | 5 | `z <- S(z, t, eps_fuse)` | the sampler's |
/// | 6 | `z' <- S(z', t, eps'_fuse)`, `eps'_fuse` from `eps_fuse` the same way | `x0'_fuse = E'(D(x0_fuse))` |
///
/// `eps` is affine in `x0` at a fixed `x`, so that blending one is blending the other. A sampler is linear in the latent, in
/// the estimate and in its noise, element by element: walking *all latents laid end to end*, `[1, 1, 1, elements]`, it makes
/// line 5 and line 6 of every model, whatever the sampler's order. [`CoopLatent::start`] lays them so, and
/// [`CoopLatent::home`] takes the home model's out. Any number of foreign models draw along, each with its own shape, size,
/// schedule and prediction: `x0_fuse = (1 - sum d_i) x0 + sum d_i x0~_i`.
///
/// A model whose weight is 0 is not asked: with every `d` 0 the home model draws as it does alone, bit for bit; where they
/// sum to 1 the home model is not asked.
pub struct CoopLatent<'a> {
    /// The model whose latent becomes the picture.
    pub home: Participant<'a>,
    /// The models that draw along.
    pub foreign: Vec<Foreign<'a>>,
    /// What the foreign models hear of the fused estimate.
    pub exchange: Exchange,
    /// How pictures are scaled between models of different size.
    pub upsampler: Upsampler,
    /// The last fused estimate, for [`Exchange::Renoised`].
    last: RefCell<Option<Tensor<4>>>,
    /// What the models said in the last evaluation, if somebody wants to see it.
    asides: Option<RefCell<Vec<Aside>>>,
}

/// What one model said in an evaluation, before it was fused.
pub struct Aside {
    /// Which of the foreign models; none for the home model.
    pub foreign: Option<usize>,
    /// Its weight in the fused estimate.
    pub weight: f64,
    /// Its estimate, in its own space.
    pub x0: Tensor<4>,
}

/// A model that draws along.
pub struct Foreign<'a> {
    /// The model.
    pub model: Participant<'a>,
    /// What it draws.
    pub cond: Cond,
    /// Its weight in the fused estimate.
    pub strength: Strength,
    /// Standard normal noise in the shape of its latent: `z'_T`. The paper's `z'_T = z_T` is for latents of one shape.
    pub noise: Tensor<4>,
}

/// What the foreign models hear of the fused estimate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exchange {
    /// Algorithm 1: each foreign latent is advanced with the fused estimate in its space. Four passes of an autoencoder a
    /// step and foreign model.
    #[default]
    TwoWay,
    /// No foreign latent is kept: it is the last fused estimate, encoded and noised again with the model's own noise. As many
    /// passes, but nothing is carried from step to step but the home model's latent.
    Renoised,
    /// The foreign model goes its own way and hears nothing: half of the passes.
    OneWay,
}

impl Exchange {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::TwoWay, Self::Renoised, Self::OneWay];

    /// The name in requests and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::TwoWay => "two_way",
            Self::Renoised => "renoised",
            Self::OneWay => "one_way",
        }
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Exchange {
    type Err = Error;

    /// Reads a name, written with `_` or with `-`.
    fn from_str(name: &str) -> Result<Self> {
        let snake = name.replace('-', "_");
        Self::ALL.into_iter().find(|exchange| exchange.name() == snake).ok_or_else(|| Error::Invalid {
            parameter: "exchange",
            why: format!("`{name}` is none of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}

impl<'a> CoopLatent<'a> {
    /// `home`, with `foreign` models drawing along.
    pub fn new(home: Participant<'a>, foreign: Vec<Foreign<'a>>, exchange: Exchange, upsampler: Upsampler) -> Self {
        Self { home, foreign, exchange, upsampler, last: RefCell::new(None), asides: None }
    }

    /// Keeps what the models say, for [`CoopLatent::asides`].
    pub fn observed(self) -> Self {
        Self { asides: Some(RefCell::default()), ..self }
    }

    /// What each model that was asked said in the last evaluation, the home model first. Nothing unless it is observed.
    pub fn asides(&self) -> Vec<Aside> {
        self.asides.as_ref().map(RefCell::take).unwrap_or_default()
    }

    fn note(&self, foreign: Option<usize>, weight: f64, x0: &Tensor<4>) {
        if let Some(asides) = &self.asides {
            asides.borrow_mut().push(Aside { foreign, weight, x0: x0.clone() });
        }
    }

    /// All latents where a run begins, at `sigma`. Where the picture is known already, the foreign models start from it, too.
    ///
    /// # Errors
    /// As [`super::Space::decode`].
    pub async fn start(&self, opening: Opening, sigma: f64, pace: &Pace) -> Result<Tensor<4>> {
        let mut latents = vec![opening.x];
        for foreign in self.kept() {
            latents.push(self.open(foreign, opening.x0.clone(), sigma, pace).await?);
        }
        self.last.replace(opening.x0);
        Ok(join(latents))
    }

    /// Whether anything but the latents is carried from step to step.
    pub fn carries(&self) -> bool {
        self.exchange == Exchange::Renoised && !self.foreign.is_empty()
    }

    /// It, once a step was made: the last fused estimate, in the shape of the home model's latent.
    pub fn carried(&self) -> Option<Tensor<4>> {
        self.last.borrow().clone().filter(|_| self.carries())
    }

    /// Goes on where `carried` was [`CoopLatent::carried`].
    pub fn carry(&self, carried: Option<Tensor<4>>) {
        self.last.replace(carried);
    }

    /// Number of elements of all latents.
    pub fn elements(&self) -> usize {
        let others = self.kept().iter().map(|foreign| foreign.model.latent);
        std::iter::once(self.home.latent).chain(others).map(|latent| latent.iter().product::<usize>()).sum()
    }

    /// All latents of which the home model's is `home`, and every element of the others `rest`.
    pub fn beside(&self, home: Tensor<4>, rest: f64) -> Tensor<4> {
        let device = home.device();
        let others = self.kept().iter().map(|foreign| Tensor::full(foreign.model.latent, rest, &device));
        join(std::iter::once(home).chain(others).collect())
    }

    /// The foreign models whose latents are walked along.
    fn kept(&self) -> &[Foreign<'a>] {
        if self.exchange == Exchange::Renoised { &[] } else { &self.foreign }
    }

    /// The home model's latent among all.
    pub fn home(&self, x: Tensor<4>) -> Tensor<4> {
        let count = self.home.latent.iter().product();
        x.narrow(3, 0, count).reshape(self.home.latent)
    }

    /// A foreign latent at `sigma`: of the home model's clean latent `x0` if there is one, else of noise alone.
    async fn open(&self, foreign: &Foreign<'_>, x0: Option<Tensor<4>>, sigma: f64, pace: &Pace) -> Result<Tensor<4>> {
        let noise = foreign.noise.clone();
        let opening = match x0 {
            Some(x0) => Opening::known(self.home.cross(&foreign.model, x0, self.upsampler, pace).await?, noise, sigma),
            None => Opening::noise(noise, sigma),
        };
        Ok(opening.x)
    }

    /// The foreign latents among all.
    fn foreign(&self, x: &Tensor<4>) -> Vec<Tensor<4>> {
        let mut at = self.home.latent.iter().product::<usize>();
        let take = |foreign: &Foreign<'_>| {
            let count = foreign.model.latent.iter().product::<usize>();
            at += count;
            x.clone().narrow(3, at - count, count).reshape(foreign.model.latent)
        };
        self.kept().iter().map(take).collect()
    }

    /// The weights at `sigma`; where they sum to more than 1, their shares of it.
    fn weights(&self, sigma: f64) -> Vec<f64> {
        let weights = self.foreign.iter().map(|foreign| foreign.strength.at(sigma));
        let sum = weights.clone().sum::<f64>().max(1.0);
        weights.map(|weight| weight / sum).collect()
    }

    async fn fuse(&self, x: Tensor<4>, sigma: f64, cond: &Cond, pace: &Pace) -> Result<Tensor<4>> {
        let (home, weights) = (&self.home, self.weights(sigma));
        let (z, mut latents) = (self.home(x.clone()), self.foreign(&x));
        let own = 1.0 - weights.iter().sum::<f64>();
        let mut terms = Vec::new();
        if own > 0.0 {
            let x0 = home.denoiser.denoise(z, sigma, cond, pace).await?;
            self.note(None, own, &x0);
            terms.push(if own == 1.0 { x0 } else { x0 * own });
        }
        for (index, (foreign, &weight)) in self.foreign.iter().zip(&weights).enumerate() {
            if weight == 0.0 {
                continue; // What it would hear next is its latent as it is: it stays where it stands.
            }
            let z = match self.exchange {
                Exchange::Renoised => {
                    let last = self.last.borrow().clone();
                    self.open(foreign, last, sigma, pace).await?
                }
                _ => latents[index].clone(),
            };
            let x0 = foreign.model.denoiser.denoise(z, sigma, &foreign.cond, pace).await?;
            self.note(Some(index), weight, &x0);
            if self.exchange == Exchange::OneWay {
                latents[index] = x0.clone();
            }
            terms.push(foreign.model.cross(home, x0, self.upsampler, pace).await? * weight);
        }
        let fused = terms.into_iter().reduce(|sum, term| sum + term).expect("weights sum to one");
        match self.exchange {
            Exchange::TwoWay => {
                for (index, (foreign, &weight)) in self.foreign.iter().zip(&weights).enumerate() {
                    if weight > 0.0 {
                        latents[index] = home.cross(&foreign.model, fused.clone(), self.upsampler, pace).await?;
                    }
                }
            }
            Exchange::Renoised => drop(self.last.replace(Some(fused.clone()))),
            Exchange::OneWay => {}
        }
        Ok(join([vec![fused], latents].concat()))
    }
}

impl Denoiser for CoopLatent<'_> {
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        drop(self.asides());
        Box::pin(self.fuse(x, sigma, cond, pace))
    }
}

/// Latents laid end to end, `[1, 1, 1, elements]`.
fn join(latents: Vec<Tensor<4>>) -> Tensor<4> {
    let flat = |latent: Tensor<4>| {
        let count = latent.shape().num_elements();
        latent.reshape([1, 1, 1, count])
    };
    Tensor::cat(latents.into_iter().map(flat).collect(), 3)
}
