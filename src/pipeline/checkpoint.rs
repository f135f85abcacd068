//! Where a drawing stands between two steps: what a fresh process needs to finish it.

use super::{Settings, generator::read};
use crate::{
    Error, Result,
    coop::latent::CoopLatent,
    diffusion::samplers::{self, Sampler},
    weights::{TensorSource, manifest::Manifest, safetensors::SafeTensors},
};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, tensor::TensorView};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// A drawing that stands between two steps, or before its latents are decoded.
///
/// [`super::Generator::resume`] goes on from it, in any process and on any device. On the CPU the picture is that of the
/// undisturbed drawing, bit for bit.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// See [`fingerprint`].
    pub(super) drawing: String,
    /// Steps of the drawing that are made, from 1.
    pub(super) step: usize,
    /// All models' latents.
    x: Vec<f32>,
    /// The last step's estimate of them, if the sampler looks back.
    previous: Option<Vec<f32>>,
    /// [`CoopLatent::carried`].
    carried: Option<Vec<f32>>,
}

/// What the file calls its parts.
const DRAWING: &str = "drawing";
const STEP: &str = "step";
const X: &str = "x";
const PREVIOUS: &str = "previous";
const CARRIED: &str = "carried";

/// What tells a drawing from others: its settings, and the models that draw it.
pub fn fingerprint<'a>(settings: &Settings, models: impl Iterator<Item = &'a Manifest>) -> String {
    let mut hash = Sha256::new().chain_update(serde_json::to_string(settings).expect("settings are plain data"));
    models.for_each(|model| hash.update(model.fingerprint()));
    hex::encode(hash.finalize())
}

impl Checkpoint {
    /// Where `coop` stands after `step` steps of the `drawing` of that [`fingerprint`].
    ///
    /// # Errors
    /// [`Error::Device`] if the latents cannot be read back, or are not finite.
    pub(super) async fn of(
        drawing: &str,
        step: usize,
        at: samplers::Checkpoint,
        coop: &CoopLatent<'_>,
    ) -> Result<Self> {
        let values = async |tensor: Option<Tensor<4>>| match tensor {
            Some(tensor) => Ok(Some(read(tensor).await?.iter::<f32>().collect())),
            None => Ok::<_, Error>(None),
        };
        Ok(Self {
            drawing: drawing.into(),
            step,
            x: values(Some(at.x)).await?.unwrap_or_default(),
            previous: values(at.previous).await?,
            carried: values(coop.carried()).await?,
        })
    }

    /// Steps of the drawing that are made.
    pub fn step(&self) -> usize {
        self.step
    }

    /// The same for `sampler`, of whose run `made` steps are made, on `device`; `coop` carries on, too.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the latents are not those of these models.
    pub(super) fn restore(
        self,
        made: usize,
        sampler: Sampler,
        coop: &CoopLatent<'_>,
        device: &Device,
    ) -> Result<samplers::Checkpoint> {
        let all = [1, 1, 1, coop.elements()];
        let fits = |values: Option<&Vec<f32>>, expected: bool, shape: [usize; 4]| {
            values.map(Vec::len) == expected.then(|| shape.iter().product())
        };
        if !fits(Some(&self.x), true, all)
            || !fits(self.previous.as_ref(), sampler.looks_back(), all)
            || !fits(self.carried.as_ref(), coop.carries(), coop.home.latent)
        {
            return Err(invalid("does not hold the latents of these models"));
        }
        let tensor = |values: Vec<f32>, shape| Tensor::from_data(TensorData::new(values, shape), device);
        coop.carry(self.carried.map(|values| tensor(values, coop.home.latent)));
        let previous = self.previous.map(|values| tensor(values, all));
        Ok(samplers::Checkpoint { made, x: tensor(self.x, all), previous })
    }

    /// As a safetensors file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let parts = [(X, Some(&self.x)), (PREVIOUS, self.previous.as_ref()), (CARRIED, self.carried.as_ref())];
        let parts = parts.map(|(name, values)| {
            values.map(|values| (name, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()))
        });
        let views = parts.iter().flatten().map(|(name, bytes)| {
            (*name, TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes).expect("four bytes a value"))
        });
        let about = [(DRAWING, self.drawing.clone()), (STEP, self.step.to_string())];
        let about = HashMap::from(about.map(|(name, value)| (name.into(), value)));
        safetensors::serialize(views, Some(about)).expect("plain data")
    }

    /// Reads what [`Checkpoint::to_bytes`] wrote. Whether it belongs to a drawing is seen when that is resumed.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let read = || {
            let file = SafeTensors::new("the checkpoint", bytes)?;
            let about = |name| file.metadata().get(name).cloned().unwrap_or_default();
            let values = |name| {
                let Some(stored) = file.tensor(name)? else {
                    return Ok(None);
                };
                let values = stored.dtype.dequantize(&stored.bytes, stored.shape.iter().product())?;
                let finite = values.iter().all(|value| value.is_finite());
                if finite { Ok(Some(values)) } else { Err(invalid("holds values that are not finite")) }
            };
            let step = about(STEP).parse().ok().filter(|step| *step > 0);
            Ok(Self {
                drawing: about(DRAWING),
                step: step.ok_or_else(|| invalid("does not say how many steps are made"))?,
                x: values(X)?.unwrap_or_default(),
                previous: values(PREVIOUS)?,
                carried: values(CARRIED)?,
            })
        };
        read().map_err(|error: Error| match error {
            Error::Corrupt { why, .. } => invalid(&format!("is no such file: {why}")),
            error => error,
        })
    }
}

/// An error about a checkpoint.
pub(super) fn invalid(why: &str) -> Error {
    Error::Invalid { parameter: "checkpoint", why: why.into() }
}
