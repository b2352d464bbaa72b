//! The time of a training step, for comparison with other frameworks.

use super::clock::{median, seconds};
use super::executions::{images, masks};
use crate::attack::{self, AttackSettings, Draws, Network};
use crate::nn::{Model, Weights};
use crate::ops::SparseFilter;
use crate::optim::{Constraint, Optimizer};
use crate::{Mode, Result, Seed, Tape, Tensor, ops};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A training step on random images: forward in train mode, cross-entropy, backward, SGD with Nesterov momentum and
/// weight decay.
#[derive(Debug, Clone)]
pub struct TrainStep {
    /// Images.
    pub batch: usize,
    /// Arithmetic of matrix products.
    pub mode: Mode,
    /// Steps of the PGD attack whose images the step trains on: in eval mode, from a random start, with the gradient of the
    /// pixels alone. 0: no attack.
    pub attack_steps: usize,
    /// Whether weights that are 0 stay 0: the attack's convolutions run over the others alone, training's over all, since
    /// regrowth ranks the momentum of pruned weights.
    pub masked: bool,
    /// Time that the steps may take; at least six are done.
    pub budget: Duration,
    /// For the images and the starts of the attack.
    pub seed: Seed,
}

/// What masks make of a step, by the name of the weight.
#[derive(Default)]
struct Masked {
    masks: BTreeMap<String, Tensor>,
    attack: Weights,
}

impl Masked {
    fn new(model: &Model) -> Result<Self> {
        let mut own = Self::default();
        for (name, weight, mask) in masks(model)? {
            own.attack.sparse.insert(name.clone(), SparseFilter::build(&weight, &mask)?);
            own.masks.insert(name, mask);
        }
        Ok(own)
    }
}

impl TrainStep {
    /// Median seconds of a step of a copy of `model`. Three steps come before and are not counted.
    pub fn median_seconds(&self, model: &Model) -> Result<f64> {
        let (mut model, arch) = (model.clone(), model.arch().clone());
        let x = images(&model, self.batch, self.seed)?;
        let labels = (0..self.batch).map(|index| (index % arch.classes) as i32).collect();
        let labels = Tensor::from_vec::<i32>(labels, &[self.batch], model.device())?;
        let masked = if self.masked { Masked::new(&model)? } else { Masked::default() };
        let mut optimizer = Optimizer::new(Default::default());
        let (start, mut times) = (Instant::now(), Vec::new());
        while times.len() < 6 || (start.elapsed() < self.budget && times.len() < 1000) {
            let turn = times.len() as u64;
            times.push(seconds(&x.device(), || {
                let x = self.adversary(&model, &x, &labels, &masked, turn)?;
                self.step(&mut model, &mut optimizer, &x, &labels, &masked)
            })?);
        }
        Ok(median(times.split_off(3)))
    }

    fn adversary(
        &self,
        model: &Model,
        x: &Tensor,
        labels: &Tensor,
        masked: &Masked,
        turn: u64,
    ) -> Result<Tensor> {
        if self.attack_steps == 0 {
            return Ok(x.clone());
        }
        let settings =
            AttackSettings { steps: Some(self.attack_steps), ..AttackSettings::default() };
        let network = Network { model, weights: &masked.attack, mode: self.mode };
        let draws = Draws { seed: self.seed, stream: "attack.start", restart: 0, turn };
        attack::adversary(&network, x, labels, &settings, draws)
    }

    fn step(
        &self,
        model: &mut Model,
        optimizer: &mut Optimizer,
        x: &Tensor,
        labels: &Tensor,
        masked: &Masked,
    ) -> Result<()> {
        let mut tape = Tape::new(self.mode);
        model.watch(&mut tape);
        let logits = model.forward_train(&mut tape, x, &Weights::default())?;
        let loss = ops::softmax_xent(&mut tape, &logits, labels)?;
        let seed = Tensor::from_vec(vec![1.0f32], &[1], &x.device())?;
        let mut found = tape.backward(&loss, seed)?;
        let mut gradients = BTreeMap::new();
        for (name, parameter) in model.params() {
            gradients.extend(found.take(parameter).map(|gradient| (name.clone(), gradient)));
        }
        let constraint =
            |name: &str| Constraint { mask: masked.masks.get(name), ..Constraint::default() };
        optimizer.step(model.params_mut(), &gradients, 0.01, constraint)
    }
}
