//! AdamW with a clip of the whole gradient's norm and a moving average of the weights, in one pass over each parameter.
//!
//! The state lives on the host as plain numbers: a checkpoint holds it bit for bit, whatever the device, and the update
//! reads and writes each number once.

use crate::{Error, Result, weights};
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Gradients, Tensor, TensorData},
};
use std::collections::BTreeMap;

/// Settings of [`Optimizer`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// Decay of the mean of gradients and of the mean of their squares.
    pub betas: [f32; 2],
    /// Decoupled weight decay, applied to matrices and kernels, not to biases and norms.
    pub weight_decay: f32,
    /// Largest Euclidean norm of the whole gradient.
    pub clip: f32,
    /// Decay of the weights' average at the end; it starts lower, see [`Optimizer::step`].
    pub average_decay: f32,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self { betas: [0.9, 0.99], weight_decay: 0.01, clip: 1.0, average_decay: 0.998 }
    }
}

/// One parameter's numbers, in the parameter's own layout.
struct Slot {
    name: String,
    shape: Vec<usize>,
    value: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
    average: Vec<f32>,
}

/// The optimizer of one module and the owner of its weights.
pub struct Optimizer {
    config: OptimizerConfig,
    step: u64,
    slots: Vec<Slot>,
}

impl Optimizer {
    /// Starts from the weights of `module`.
    pub fn new<M: Module>(module: &M, config: OptimizerConfig) -> Self {
        struct Reader(Vec<(Vec<usize>, Vec<f32>)>);
        impl ModuleVisitor for Reader {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let value = param.val();
                self.0.push((value.dims().to_vec(), values(value)));
            }
        }
        let mut reader = Reader(Vec::new());
        module.visit(&mut reader);
        let names = weights::save(module, "").into_iter().map(|(name, _, _)| name);
        let slots = names.zip(reader.0).map(|(name, (shape, value))| {
            let zeros = vec![0.0; value.len()];
            Slot { name, shape, mean: zeros.clone(), square: zeros, average: value.clone(), value }
        });
        Self { config, step: 0, slots: slots.collect() }
    }

    /// Updates made so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Applies one update and answers the updated module and the gradient's norm before the clip.
    ///
    /// The average's decay is `min(average_decay, (1 + step) / (10 + step))`: early on it follows the weights closely.
    pub fn step<M: Module>(&mut self, module: M, mut gradients: Gradients, rate: f64) -> (M, f32) {
        struct Collector<'a>(&'a mut Gradients, Vec<Option<Vec<f32>>>);
        impl ModuleVisitor for Collector<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.1.push(param.val().grad_remove(self.0).map(values));
            }
        }
        let mut collector = Collector(&mut gradients, Vec::with_capacity(self.slots.len()));
        module.visit(&mut collector);
        let gradients = collector.1;
        let squares = |chunk: &[f32]| f64::from(chunk.iter().map(|g| g * g).sum::<f32>());
        let norm = gradients.iter().flatten().flat_map(|gradient| gradient.chunks(4096)).map(squares).sum::<f64>();
        let norm = norm.sqrt() as f32;

        self.step += 1;
        let step = self.step as f32;
        let [beta1, beta2] = self.config.betas;
        let clip = if norm > self.config.clip { self.config.clip / norm } else { 1.0 };
        let rate = rate as f32;
        let (unbias1, unbias2) = (1.0 / (1.0 - beta1.powf(step)), 1.0 / (1.0 - beta2.powf(step)));
        let decay = self.config.average_decay.min((1.0 + step) / (10.0 + step));
        for (slot, gradient) in self.slots.iter_mut().zip(&gradients) {
            let Some(gradient) = gradient else { continue };
            let shrink = 1.0 - if slot.shape.len() > 1 { rate * self.config.weight_decay } else { 0.0 };
            let state = slot.mean.iter_mut().zip(&mut slot.square).zip(&mut slot.average);
            for ((value, ((mean, square), average)), gradient) in slot.value.iter_mut().zip(state).zip(gradient) {
                let g = gradient * clip;
                *mean = beta1 * *mean + (1.0 - beta1) * g;
                *square = beta2 * *square + (1.0 - beta2) * g * g;
                *value = shrink * *value - rate * (*mean * unbias1) / ((*square * unbias2).sqrt() + 1e-8);
                *average = decay * *average + (1.0 - decay) * *value;
            }
        }
        (self.write(module, |slot| &slot.value), norm)
    }

    /// `module` with the current weights.
    pub fn weights<M: Module>(&self, module: M) -> M {
        self.write(module, |slot| &slot.value)
    }

    /// `module` with the averaged weights, not differentiable.
    pub fn averaged<M: Module>(&self, module: &M) -> M {
        self.write(module.valid(), |slot| &slot.average)
    }

    fn write<M: Module>(&self, module: M, values: impl Fn(&Slot) -> &Vec<f32>) -> M {
        struct Writer<'a, F>(std::slice::Iter<'a, Slot>, F);
        impl<F: Fn(&Slot) -> &Vec<f32>> ModuleMapper for Writer<'_, F> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let slot = self.0.next().expect("as many parameters as slots");
                let data = TensorData::new((self.1)(slot).clone(), slot.shape.clone());
                let tensor = Tensor::from_data(data, &param.lazy_device());
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
        }
        module.map(&mut Writer(self.slots.iter(), values))
    }

    /// Every number a checkpoint needs, by name; `self.steps()` goes with them.
    pub(super) fn state(&self) -> impl Iterator<Item = (String, &[usize], &[f32])> {
        self.slots.iter().flat_map(|slot| {
            [("value", &slot.value), ("mean", &slot.mean), ("square", &slot.square), ("average", &slot.average)]
                .map(|(kind, values)| (format!("{kind}.{}", slot.name), slot.shape.as_slice(), values.as_slice()))
        })
    }

    /// Takes over what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a number is missing: the checkpoint belongs to another network.
    pub(super) fn restore(&mut self, step: u64, mut state: BTreeMap<String, Vec<f32>>) -> Result<()> {
        for slot in &mut self.slots {
            let name = slot.name.clone();
            for (kind, values) in [
                ("value", &mut slot.value),
                ("mean", &mut slot.mean),
                ("square", &mut slot.square),
                ("average", &mut slot.average),
            ] {
                let name = format!("{kind}.{name}");
                let found = state.remove(&name).filter(|found| found.len() == values.len());
                *values = found.ok_or_else(|| Error::Corrupt {
                    what: "checkpoint".into(),
                    why: format!("`{name}` does not fit the network"),
                })?;
            }
        }
        self.step = step;
        Ok(())
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("converted to f32 above")
}
