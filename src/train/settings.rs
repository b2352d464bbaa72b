//! `[train]` of a recipe.

use crate::attack::AttackSettings;
use crate::optim::{OptimizerSettings, ScheduleSettings};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How a network is trained (`[train]`). By default training is plain SGD: every other feature is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images a step; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// The run ends after so many steps, with an evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Number of first epochs that are trained without adversary and without dynamic L2.
    pub warmup_epochs: usize,
    /// The loss that is minimised where there is an adversary.
    pub loss: Loss,
    /// β of the hybrid loss. With 1 training is clean and the attack never runs.
    pub beta: f64,
    /// The update rule.
    pub optimizer: OptimizerSettings,
    /// The learning rate over time.
    pub schedule: ScheduleSettings,
    /// The attack that makes adversarial training images; `None` means clean training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adversary: Option<AttackSettings>,
    /// How convolutions with masks are computed.
    pub execution: TrainExecution,
    /// Initial α of the noise on the weights; `None` means no noise. He et al. 2019 use 0.25.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_noise: Option<f64>,
}

/// How convolutions with masks are computed in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainExecution {
    /// By the dense kernels, which multiply pruned weights too.
    #[default]
    Dense,
    /// The attack runs by the sparse kernels, which multiply kept weights only. Where masks never change, the training passes
    /// do too, with weight gradients at kept positions only. Methods that regrow weights need the gradients of pruned
    /// weights, so their training passes stay dense.
    Sparse,
}

/// The loss that is minimised where there is an adversary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// `β·(CE(x) + dynamic L2) + (1 − β)·CE(x̂)`, in two forward passes.
    #[default]
    Hybrid,
    /// `CE(x̂) + dynamic L2`, one forward pass.
    Adversarial,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            epochs: 1,
            batch_size: 128,
            max_steps: None,
            warmup_epochs: 0,
            loss: Loss::Hybrid,
            beta: 0.5,
            optimizer: OptimizerSettings::default(),
            schedule: ScheduleSettings::Constant,
            adversary: None,
            execution: TrainExecution::Dense,
            weight_noise: None,
        }
    }
}

impl TrainSettings {
    /// Checks the ranges.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the key.
    pub fn check(&self) -> Result<()> {
        let count = |key: &str, n: usize, most: usize| match (1..=most).contains(&n) {
            true => Ok(()),
            false => Err(Error::param(key, n, format!("1 to {most}"))),
        };
        count("train.epochs", self.epochs, 1_000_000)?;
        count("train.batch_size", self.batch_size, 1 << 20)?;
        if self.max_steps == Some(0) {
            return Err(Error::param("train.max_steps", 0, "at least 1"));
        }
        if !(0.0..=1.0).contains(&self.beta) {
            return Err(Error::param("train.beta", self.beta, "from 0 to 1"));
        }
        if let Some(alpha) = self.weight_noise.filter(|alpha| !(0.0..=100.0).contains(alpha)) {
            return Err(Error::param("train.weight_noise", alpha, "from 0 to 100"));
        }
        self.optimizer.check()?;
        self.schedule.check()?;
        self.adversary.as_ref().map_or(Ok(()), AttackSettings::check_training)
    }

    /// `[weight of the clean loss, weight of the adversarial loss, factor of dynamic L2]` in epoch `epoch` (from 0).
    pub fn weights(&self, epoch: usize) -> [f64; 3] {
        let warm = epoch < self.warmup_epochs;
        match (&self.adversary, self.loss) {
            _ if warm => [1.0, 0.0, 0.0],
            (None, _) => [1.0, 0.0, 1.0],
            (Some(_), Loss::Hybrid) => [self.beta, 1.0 - self.beta, self.beta],
            (Some(_), Loss::Adversarial) => [0.0, 1.0, 1.0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_that_is_not_asked_for_is_absent() {
        let clean = TrainSettings::default();
        assert_eq!(clean.weights(0), [1.0, 0.0, 1.0]);
        let hybrid = TrainSettings {
            adversary: Some(AttackSettings::default()),
            warmup_epochs: 5,
            beta: 0.25,
            ..clean
        };
        assert_eq!(hybrid.weights(4), [1.0, 0.0, 0.0]);
        assert_eq!(hybrid.weights(5), [0.25, 0.75, 0.25]);
    }
}
