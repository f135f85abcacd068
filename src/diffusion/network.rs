//! A network on its noise schedule, as a denoiser.

use super::{
    Cond, Denoiser, Denoising,
    schedule::{Prediction, Schedule},
};
use crate::nets::{Pace, precision::Stage, unet::UNet};
use burn::tensor::Tensor;

/// A network that predicts noise, velocity or the clean latent from a variance-preserving noisy latent.
pub trait Network {
    /// `x`: `sqrt(abar) x0 + sqrt(1 - abar) n`, `[batch, channels, height, width]`; `timesteps`: `[batch]`, fractional,
    /// in `0..=T-1`. Answers the prediction, in the shape of `x`.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`] when `pace` was cancelled; whatever the network fails with.
    fn predict<'a>(&'a self, x: Tensor<4>, timesteps: Tensor<1>, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a>;
}

impl<N: Network + ?Sized> Network for &N {
    fn predict<'a>(&'a self, x: Tensor<4>, timesteps: Tensor<1>, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        (**self).predict(x, timesteps, cond, pace)
    }
}

impl<N: Network + ?Sized> Network for std::rc::Rc<N> {
    fn predict<'a>(&'a self, x: Tensor<4>, timesteps: Tensor<1>, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        (**self).predict(x, timesteps, cond, pace)
    }
}

impl Network for UNet {
    fn predict<'a>(&'a self, x: Tensor<4>, timesteps: Tensor<1>, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        Box::pin(pace.evaluate(Stage::Denoise, async move |dtype| {
            let x = x.clone().cast(dtype);
            self.forward(x, timesteps.clone(), cond.tokens.clone(), cond.vector.clone(), pace).await
        }))
    }
}

/// Wraps a network `F` into a [`Denoiser`]: the one place that knows of timesteps, epsilon and v.
///
/// `x0 = c_skip x + c_out F(x / sqrt(sigma^2 + 1), t)`, with `t` the timestep of `sigma` on the network's schedule and
/// `c_skip`, `c_out` of [`Prediction::scalings`]. Dividing by `sqrt(sigma^2 + 1)` is multiplying by `sqrt(abar)`: it
/// turns `x0 + sigma n` into what the network was trained on.
#[derive(Debug, Clone)]
pub struct NetworkDenoiser<N> {
    network: N,
    schedule: Schedule,
    prediction: Prediction,
}

impl<N: Network> NetworkDenoiser<N> {
    /// `network`, or a reference to one, trained to make `prediction` on `schedule`.
    pub fn new(network: N, schedule: Schedule, prediction: Prediction) -> Self {
        Self { network, schedule, prediction }
    }

    /// The network.
    pub fn network(&self) -> &N {
        &self.network
    }
}

impl<N: Network> Denoiser for NetworkDenoiser<N> {
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        Box::pin(async move {
            let timesteps = Tensor::full([x.dims()[0]], self.schedule.timestep(sigma), &x.device());
            let c_in = 1.0 / (sigma * sigma + 1.0).sqrt();
            let (c_skip, c_out) = self.prediction.scalings(sigma);
            let output = self.network.predict(x.clone() * c_in, timesteps, cond, pace).await?;
            Ok(x * c_skip + output * c_out)
        })
    }
}
