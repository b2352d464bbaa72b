//! Noise on the weights of convolutions while they are trained.

use crate::nn::{Model, Weights};
use crate::ops;
use crate::optim::{Constraint, Optimizer, OptimizerSettings};
use crate::prune::Pruner;
use crate::{DType, Error, Gradients, Result, Seed, Tape, Tensor};
use std::collections::BTreeMap;

/// `train.weight_noise`: every convolution runs with `w' = w + α·η` and learns its α.
///
/// η is drawn anew for every pass over a batch, attack and training alike; the steps of one attack share it.
/// Evaluation runs without noise. Deviation: the published attack draws in every step.
/// Source: He et al. 2019 (PNI), layer-wise.
pub(super) struct WeightNoise {
    /// α `[1]` by the name of the weight.
    alphas: BTreeMap<String, Tensor>,
    optimizer: Optimizer,
}

/// The part of a run's state that holds α and its momentum.
pub(super) const PART: &str = "noise";

/// α within that part.
const ALPHA: &str = "alpha";

/// α of every convolution by the name of its weight, read from the state of a run ([`crate::train::Trainer::state`]). The map is
/// empty where the run was trained without noise.
pub fn learnt_alphas(state: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let alpha = |(key, tensor): (String, Tensor)| {
        let (part, key) = key.split_once('/')?;
        let (kind, name) = key.split_once('/')?;
        (part == PART && kind == ALPHA).then(|| (name.to_owned(), tensor))
    };
    state.into_iter().filter_map(alpha).collect()
}

/// Passes of one step that draw apart.
#[derive(Debug, Clone, Copy)]
pub(super) enum Draw {
    /// The clean pass.
    Clean,
    /// The attack.
    Attack,
    /// The adversarial pass.
    Adversarial,
}

impl WeightNoise {
    /// α = `alpha` in every convolution of `model`.
    pub fn new(model: &Model, alpha: f64, optimizer: OptimizerSettings) -> Result<Self> {
        let value = |name| Ok((name, Tensor::from_vec(vec![alpha as f32], &[1], model.device())?));
        let alphas = model.prunable().into_iter().map(value).collect::<Result<_>>()?;
        Ok(Self { alphas, optimizer: Optimizer::new(optimizer) })
    }

    /// Asks `tape` for the gradients of every α.
    pub fn watch(&self, tape: &mut Tape) {
        self.alphas.values().for_each(|alpha| tape.watch(alpha));
    }

    /// Adds the noisy weights to those of a pass; masked ones stay 0.
    pub fn substitute(
        &self,
        weights: &mut Weights,
        tape: &mut Tape,
        model: &Model,
        pruner: Option<&Pruner>,
        (seed, step, draw): (Seed, u64, Draw),
    ) -> Result<()> {
        for (layer, (name, alpha)) in self.alphas.iter().enumerate() {
            let stream = seed.stream("weight.noise", step, 3 * layer as u32 + draw as u32);
            let mask = pruner.and_then(|pruner| pruner.mask(name));
            let weight = model.param(name)?;
            let storage = match weights.sparse.contains_key(name) {
                true => DType::F32,
                false => ops::operand_type(tape.mode(), weight),
            };
            let noisy = ops::noisy_weight(tape, weight, alpha, mask, &stream, storage)?;
            weights.substitutes.insert(name.clone(), noisy);
        }
        Ok(())
    }

    /// Takes the gradients of every α out of a backward pass, adding to `sums`.
    pub fn collect(
        &self,
        found: &mut Gradients,
        sums: &mut BTreeMap<String, Tensor>,
    ) -> Result<()> {
        for (name, alpha) in &self.alphas {
            let Some(gradient) = found.take(alpha) else { continue };
            let sum = match sums.get(name) {
                None => gradient,
                Some(first) => ops::elementwise::sum(first, &gradient)?,
            };
            sums.insert(name.clone(), sum);
        }
        Ok(())
    }

    /// One update of every α.
    pub fn step(&mut self, gradients: &BTreeMap<String, Tensor>, lr: f64) -> Result<()> {
        self.optimizer.step(&mut self.alphas, gradients, lr, |_| Constraint::default())
    }

    /// What a resumed run needs, by name.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let alphas =
            self.alphas.iter().map(|(name, alpha)| (format!("{ALPHA}/{name}"), alpha.clone()));
        let momentum = self.optimizer.state().into_iter();
        alphas.chain(momentum.map(|(name, tensor)| (format!("optimizer/{name}"), tensor))).collect()
    }

    /// Takes [`Self::state`] back.
    pub fn load_state(&mut self, state: BTreeMap<String, Tensor>, steps: u64) -> Result<()> {
        let mut momentum = BTreeMap::new();
        for (key, tensor) in state {
            match key.split_once('/') {
                Some((ALPHA, name)) if self.alphas.contains_key(name) => {
                    self.alphas.insert(name.to_owned(), tensor);
                }
                Some(("optimizer", name)) => _ = momentum.insert(name.to_owned(), tensor),
                _ => return Err(Error::param("state", key, "a tensor of this run's weight noise")),
            }
        }
        self.optimizer.load_state(momentum, &self.alphas, steps)
    }
}
