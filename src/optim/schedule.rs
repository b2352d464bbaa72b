//! Learning-rate schedules. The rate changes after whole epochs, as with PyTorch's schedulers.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// Which schedule, and its settings: `train.schedule` of a recipe.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ScheduleSettings {
    /// The optimiser's learning rate in every epoch.
    #[default]
    Constant,
    /// `lr·gamma^m` after e epochs, where m is the number of milestones that are at most e (`MultiStepLR`).
    Step {
        /// Epochs after which the rate is multiplied.
        milestones: Vec<usize>,
        /// The factor, from 0 to 1.
        #[serde(default = "tenth")]
        gamma: f64,
    },
    /// `lr ← max(factor·lr, min_lr)` where the training loss has not improved for more than `patience` epochs
    /// (`ReduceLROnPlateau`, mode min, relative threshold).
    Plateau {
        /// The factor, from 0 to 1.
        #[serde(default = "tenth")]
        factor: f64,
        /// Epochs without an improvement before the rate is reduced.
        #[serde(default = "patience")]
        patience: usize,
        /// A loss below `best·(1 − threshold)` is an improvement.
        #[serde(default = "threshold")]
        threshold: f64,
        /// Epochs after a reduction that do not count towards `patience`.
        #[serde(default)]
        cooldown: usize,
        /// Least learning rate.
        #[serde(default)]
        min_lr: f64,
    },
    /// `eta_min + (lr − eta_min)·(1 + cos(π·e/t_max))/2` after e epochs (`CosineAnnealingLR`).
    Cosine {
        /// Epochs from `lr` to `eta_min`; where absent, all epochs of the run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        t_max: Option<usize>,
        /// Least learning rate.
        #[serde(default)]
        eta_min: f64,
    },
}

fn tenth() -> f64 {
    0.1
}

fn patience() -> usize {
    10
}

fn threshold() -> f64 {
    1e-4
}

impl ScheduleSettings {
    /// Checks the ranges.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the key.
    pub fn check(&self) -> Result<()> {
        let refuse = |key: &str, got: f64, want: &str| {
            Err(Error::param(format!("train.schedule.{key}"), got, want))
        };
        let factor = |key: &str, x: f64| match (0.0..=1.0).contains(&x) {
            true => Ok(()),
            false => refuse(key, x, "from 0 to 1"),
        };
        let least = |key: &str, x: f64| match x.is_finite() && x >= 0.0 {
            true => Ok(()),
            false => refuse(key, x, "finite and at least 0"),
        };
        match *self {
            Self::Constant => Ok(()),
            Self::Step { gamma, .. } => factor("gamma", gamma),
            Self::Plateau { factor: by, threshold, min_lr, .. } => {
                factor("factor", by)?;
                factor("threshold", threshold)?;
                least("min_lr", min_lr)
            }
            Self::Cosine { t_max: Some(0), .. } => refuse("t_max", 0.0, "at least 1"),
            Self::Cosine { eta_min, .. } => least("eta_min", eta_min),
        }
    }
}

/// A schedule in use: its settings and what it has seen of the training loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    settings: ScheduleSettings,
    /// The optimiser's; on a plateau the reduced one.
    lr: f64,
    epochs: usize,
    /// Plateau: the best loss, epochs since then, epochs of cooldown left.
    best: f64,
    stale: usize,
    cooling: usize,
}

impl Schedule {
    /// A schedule that starts at the learning rate `lr`, for a run of `epochs` epochs.
    pub fn new(settings: ScheduleSettings, lr: f64, epochs: usize) -> Self {
        Self { settings, lr, epochs, best: f64::INFINITY, stale: 0, cooling: 0 }
    }

    /// The learning rate after `epoch` whole epochs.
    pub fn lr(&self, epoch: usize) -> f64 {
        match &self.settings {
            ScheduleSettings::Constant | ScheduleSettings::Plateau { .. } => self.lr,
            ScheduleSettings::Step { milestones, gamma } => {
                self.lr * gamma.powi(milestones.iter().filter(|&&m| m <= epoch).count() as i32)
            }
            ScheduleSettings::Cosine { t_max, eta_min } => {
                let share = epoch as f64 / t_max.unwrap_or(self.epochs).max(1) as f64;
                eta_min + (self.lr - eta_min) * (1.0 + (PI * share).cos()) / 2.0
            }
        }
    }

    /// Takes notice of the training loss of an epoch that has ended.
    pub fn epoch_ended(&mut self, loss: f64) {
        let ScheduleSettings::Plateau { factor, patience, threshold, cooldown, min_lr } =
            self.settings
        else {
            return;
        };
        if loss < self.best * (1.0 - threshold) {
            (self.best, self.stale) = (loss, 0);
        } else {
            self.stale += 1;
        }
        if self.cooling > 0 {
            (self.cooling, self.stale) = (self.cooling - 1, 0);
        }
        if self.stale > patience {
            self.lr = self.lr.min((self.lr * factor).max(min_lr));
            (self.cooling, self.stale) = (cooldown, 0);
        }
    }

    /// The state, for a checkpoint.
    pub fn state(&self) -> [f64; 4] {
        [self.lr, self.best, self.stale as f64, self.cooling as f64]
    }

    /// Restores what [`Self::state`] returned.
    pub fn load_state(&mut self, [lr, best, stale, cooling]: [f64; 4]) {
        (self.lr, self.best) = (lr, best);
        (self.stale, self.cooling) = (stale as usize, cooling as usize);
    }
}
