//! One training step.

use super::noise::Draw;
use super::trainer::Trainer;
use crate::attack::{self, Draws, Network};
use crate::data::Batch;
use crate::nn::Weights;
use crate::optim::Constraint;
use crate::{Result, Tape, Tensor, ops};
use std::collections::BTreeMap;

/// Losses of a step before its update.
pub(super) struct Losses {
    pub clean: Option<f64>,
    pub adversarial: Option<f64>,
    pub dynamic_l2: Option<f64>,
    pub total: f64,
}

/// Gradients of a step so far, by name.
#[derive(Default)]
struct GradientSums {
    params: BTreeMap<String, Tensor>,
    /// Of the coefficients of the noise.
    alphas: BTreeMap<String, Tensor>,
}

impl Trainer {
    /// Clean forward in train mode, attack in eval mode, adversarial forward in train mode, one update.
    ///
    /// Weight gradients are dense also where weights are pruned: regrowth ranks their momentum.
    pub(super) fn train_on(&mut self, batch: Batch, lr: f64) -> Result<Losses> {
        let [clean_weight, adversarial_weight, l2_weight] = self.settings.weights(self.epoch);
        let n = batch.len();
        let arch = self.model.arch();
        let shape = [n, arch.size, arch.size, arch.in_channels];
        let x = Tensor::from_vec(batch.images, &shape, self.model.device())?;
        let labels = Tensor::from_vec(batch.labels, &[n], self.model.device())?;

        let mut sums = GradientSums::default();
        let both = adversarial_weight == 0.0 || self.settings.loss == super::Loss::Hybrid;
        let clean = match both {
            true => Some(self.accumulate(&x, &labels, clean_weight, Draw::Clean, &mut sums)?),
            false => None,
        };
        let adversarial = match &self.settings.adversary {
            Some(settings) if adversarial_weight > 0.0 => {
                let weights = self.weights(&mut Tape::new(self.mode), Draw::Attack)?;
                let weights = weights.with_operands(&self.model, self.mode)?;
                let network = Network { model: &self.model, weights: &weights, mode: self.mode };
                let (seed, turn) = (self.seed, self.step);
                let draws = Draws { seed, stream: "attack.start", restart: 0, turn };
                let x = attack::adversary(&network, &x, &labels, settings, draws)?;
                let (weight, draw) = (adversarial_weight, Draw::Adversarial);
                Some(self.accumulate(&x, &labels, weight, draw, &mut sums)?)
            }
            _ => None,
        };
        // The losses are read back together, after everything is queued.
        let read = |loss: Option<Tensor>| -> Result<Option<f64>> {
            loss.map(|loss| Ok(f64::from(loss.to_vec::<f32>()?[0]))).transpose()
        };
        let rho = self.pruner.as_ref().map_or(0.0, |pruner| pruner.rho()) * l2_weight;
        let dynamic_l2 = match &self.pruner {
            Some(pruner) if rho > 0.0 => Some(pruner.dynamic_l2(&self.model)?),
            _ => None,
        };
        let (clean, adversarial) = (read(clean)?, read(adversarial)?);

        let part = |loss: Option<f64>, weight: f64| loss.map_or(0.0, |loss| weight * loss);
        let total = part(clean, clean_weight)
            + part(adversarial, adversarial_weight)
            + part(dynamic_l2, l2_weight);
        self.check_loss(total)?;

        let pruner = self.pruner.as_ref();
        let constraint = |name: &str| Constraint {
            mask: pruner.and_then(|pruner| pruner.mask(name)),
            anchor: pruner.and_then(|pruner| pruner.anchor_of(name)),
            rho: rho as f32,
        };
        self.optimizer.step(self.model.params_mut(), &sums.params, lr, constraint)?;
        if let Some(noise) = &mut self.noise {
            noise.step(&sums.alphas, lr)?;
        }
        Ok(Losses { clean, adversarial, dynamic_l2, total })
    }

    /// The weights of a pass: with fresh noise, and only the kept ones where no gradient of a pruned weight is asked for.
    fn weights(&self, tape: &mut Tape, draw: Draw) -> Result<Weights> {
        let pruner = self.pruner.as_ref();
        let mut weights = Weights::default();
        if matches!(draw, Draw::Attack) || pruner.is_some_and(|pruner| pruner.is_static()) {
            weights.sparse.clone_from(&self.filters);
        }
        if let Some(noise) = &self.noise {
            let draw = (self.seed, self.step, draw);
            noise.substitute(&mut weights, tape, &self.model, pruner, draw)?;
        }
        Ok(weights)
    }

    /// One pass in train mode; adds `weight` times the gradients of its loss, which it returns.
    fn accumulate(
        &mut self,
        x: &Tensor,
        labels: &Tensor,
        weight: f64,
        draw: Draw,
        sums: &mut GradientSums,
    ) -> Result<Tensor> {
        let mut tape = Tape::new(self.mode);
        self.model.watch(&mut tape);
        if let Some(noise) = &self.noise {
            noise.watch(&mut tape);
        }
        let weights = self.weights(&mut tape, draw)?;
        let logits = self.model.forward_train(&mut tape, x, &weights)?;
        let loss = ops::softmax_xent(&mut tape, &logits, labels)?;
        let seed = Tensor::from_vec(vec![weight as f32], &[1], self.model.device())?;
        let mut found = tape.backward(&loss, seed)?;
        for (name, param) in self.model.params() {
            let Some(gradient) = found.take(param) else { continue };
            let sum = match sums.params.remove(name) {
                None => gradient,
                Some(first) => ops::elementwise::sum(&first, &gradient)?,
            };
            sums.params.insert(name.clone(), sum);
        }
        if let Some(noise) = &self.noise {
            noise.collect(&mut found, &mut sums.alphas)?;
        }
        Ok(loss)
    }
}
