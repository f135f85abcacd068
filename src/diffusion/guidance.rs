//! Classifier-free guidance, PanGu-Draw's style guidance, and guidance by a control.

use super::{Cond, Denoiser, Denoising};
use crate::nets::Pace;
use burn::tensor::Tensor;

/// Guidance around any denoiser (Ho & Salimans 2022), with PanGu-Draw's style guidance on top:
///
/// `eps = eps(empty) + s (eps(c) - eps(empty)) + s_style (eps(c_style) - eps(c))`
///
/// where `c_style` is the prompt with a style's words before it. `eps` is affine in `x0` at a fixed `x`, and the weights
/// of the three terms, `1 - s`, `s - s_style` and `s_style`, sum to one; so the same formula holds for `x0`, which is
/// where it is computed. A term of weight 0 is not evaluated: `scale = 1` without a style costs one evaluation.
#[derive(Debug, Clone)]
pub struct Guided<D> {
    /// The denoiser to guide.
    pub inner: D,
    /// The empty, or negative, prompt. Same batch and token count as the prompt.
    pub uncond: Cond,
    /// The prompt in a style, if one is wanted.
    pub style: Option<Cond>,
    /// `s`; 1 is no guidance.
    pub scale: f64,
    /// `s_style`; 0 is no style guidance.
    pub style_scale: f64,
    /// Evaluates one term after the other instead of all in one batch: the activations of one picture,
    /// where a batch holds those of two or three.
    pub sequential: bool,
}

impl<D: Denoiser> Denoiser for Guided<D> {
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        let (s, s_style) = (self.scale, if self.style.is_some() { self.style_scale } else { 0.0 });
        let terms = [(1.0 - s, Some(&self.uncond)), (s - s_style, Some(cond)), (s_style, self.style.as_ref())];
        let terms: Vec<(f64, &Cond)> = terms
            .into_iter()
            .filter_map(|(weight, cond)| Some((weight, cond?)))
            .filter(|(weight, _)| *weight != 0.0)
            .collect();
        if let [(_, cond)] = terms[..] {
            return self.inner.denoise(x, sigma, cond, pace);
        }
        Box::pin(async move {
            let denoised = if self.sequential {
                let mut denoised = Vec::with_capacity(terms.len());
                for (_, cond) in &terms {
                    denoised.push(self.inner.denoise(x.clone(), sigma, cond, pace).await?);
                }
                denoised
            } else {
                let conds = Cond::cat(terms.iter().map(|(_, cond)| (*cond).clone()).collect());
                let batch = Tensor::cat(vec![x; terms.len()], 0);
                self.inner.denoise(batch, sigma, &conds, pace).await?.chunk(terms.len(), 0)
            };
            let weighted = denoised.into_iter().zip(&terms).map(|(x0, (weight, _))| x0 * *weight);
            Ok(weighted.reduce(|sum, term| sum + term).expect("weights that sum to one are not all zero"))
        })
    }
}

/// Guidance by what a control adds, as classifier-free guidance is by what words add (Brooks et al. 2023, `s_I` of equation 3,
/// here inside the guidance by words):
///
/// `x0 = x0(free) + s_control (x0(controlled) - x0(free))`
///
/// With `scale = 1` the free denoiser is not asked.
#[derive(Debug, Clone)]
pub struct ControlGuided<C, F> {
    /// Follows the control.
    pub controlled: C,
    /// The same without the control.
    pub free: F,
    /// `s_control`.
    pub scale: f64,
}

impl<C: Denoiser, F: Denoiser> Denoiser for ControlGuided<C, F> {
    fn denoise<'a>(&'a self, x: Tensor<4>, sigma: f64, cond: &'a Cond, pace: &'a Pace) -> Denoising<'a> {
        if self.scale == 1.0 {
            return self.controlled.denoise(x, sigma, cond, pace);
        }
        Box::pin(async move {
            let controlled = self.controlled.denoise(x.clone(), sigma, cond, pace).await?;
            let free = self.free.denoise(x, sigma, cond, pace).await?;
            Ok(controlled * self.scale + free * (1.0 - self.scale))
        })
    }
}
