//! Learning-rate schedules.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// `train.schedule`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ScheduleSettings {
    /// The optimiser's learning rate throughout.
    #[default]
    Constant,
    /// `lr·gamma^m`, m = milestones that are at most the number of epochs done.
    Step {
        /// Epochs.
        milestones: Vec<usize>,
        /// Factor at each.
        #[serde(default = "gamma")]
        gamma: f64,
    },
    /// `lr·(least + (1 − least)·(1 + cos(π·t/T))/2)`, t = steps done of the run's T.
    Cosine {
        /// Factor at the end.
        #[serde(default)]
        least: f64,
    },
    /// `lr·factor^k`, k = times that the training loss did not fall for `patience` epochs; PyTorch's rule with
    /// relative threshold 1e-4.
    Plateau {
        /// Factor.
        #[serde(default = "gamma")]
        factor: f64,
        /// Epochs without a fall that are borne.
        #[serde(default = "patience")]
        patience: usize,
    },
}

fn gamma() -> f64 {
    0.1
}

fn patience() -> usize {
    10
}

impl ScheduleSettings {
    /// Checks the ranges.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the key.
    pub fn check(&self) -> Result<()> {
        let (key, factor) = match self {
            Self::Constant => return Ok(()),
            Self::Step { gamma, .. } => ("train.schedule.gamma", *gamma),
            Self::Cosine { least } => ("train.schedule.least", *least),
            Self::Plateau { factor, .. } => ("train.schedule.factor", *factor),
        };
        if (0.0..=1.0).contains(&factor) {
            return Ok(());
        }
        Err(Error::param(key, factor, "from 0 to 1"))
    }
}

/// A schedule with what it remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    settings: ScheduleSettings,
    lr: f64,
    /// Plateau: the best loss, epochs since then, reductions so far.
    best: f64,
    stale: usize,
    reductions: usize,
}

impl Schedule {
    /// A schedule that starts at `lr`.
    pub fn new(settings: ScheduleSettings, lr: f64) -> Self {
        Self { settings, lr, best: f64::INFINITY, stale: 0, reductions: 0 }
    }

    /// The learning rate of the step after `epochs` whole epochs and `steps` of `total` steps.
    pub fn lr(&self, epochs: usize, steps: u64, total: u64) -> f64 {
        self.lr
            * match &self.settings {
                ScheduleSettings::Constant => 1.0,
                ScheduleSettings::Step { milestones, gamma } => {
                    gamma.powi(milestones.iter().filter(|&&m| m <= epochs).count() as i32)
                }
                ScheduleSettings::Cosine { least } => {
                    let t = steps as f64 / total.max(1) as f64;
                    least + (1.0 - least) * (1.0 + (std::f64::consts::PI * t).cos()) / 2.0
                }
                ScheduleSettings::Plateau { factor, .. } => factor.powi(self.reductions as i32),
            }
    }

    /// Hears the training loss of an epoch.
    pub fn epoch_ended(&mut self, loss: f64) {
        let ScheduleSettings::Plateau { patience, .. } = self.settings else { return };
        if loss < self.best * (1.0 - 1e-4) {
            (self.best, self.stale) = (loss, 0);
            return;
        }
        self.stale += 1;
        if self.stale > patience {
            (self.reductions, self.stale) = (self.reductions + 1, 0);
        }
    }

    /// What it remembers, for a checkpoint.
    pub fn state(&self) -> [f64; 3] {
        [self.best, self.stale as f64, self.reductions as f64]
    }

    /// Takes [`Self::state`] back.
    pub fn load_state(&mut self, [best, stale, reductions]: [f64; 3]) {
        (self.best, self.stale, self.reductions) = (best, stale as usize, reductions as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_multiplies_at_its_milestones() {
        let settings = ScheduleSettings::Step { milestones: vec![80, 120, 160], gamma: 0.2 };
        let schedule = Schedule::new(settings, 0.1);
        let lr = |epoch| (schedule.lr(epoch, 0, 1) * 1e6).round() / 1e6;
        assert_eq!([0, 79, 80, 120, 160, 199].map(lr), [0.1, 0.1, 0.02, 0.004, 0.0008, 0.0008]);
    }

    #[test]
    fn cosine_goes_from_lr_to_its_least() {
        let schedule = Schedule::new(ScheduleSettings::Cosine { least: 0.1 }, 2.0);
        let lr = |step| schedule.lr(0, step, 100);
        assert_eq!(lr(0), 2.0);
        assert!((lr(50) - 1.1).abs() < 1e-12 && (lr(100) - 0.2).abs() < 1e-12);
    }

    #[test]
    fn plateau_waits_for_its_patience() {
        let settings = ScheduleSettings::Plateau { factor: 0.5, patience: 1 };
        let mut schedule = Schedule::new(settings, 1.0);
        let rates = [1.0, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8].map(|loss| {
            schedule.epoch_ended(loss);
            schedule.lr(0, 0, 1)
        });
        assert_eq!(rates, [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]);
    }
}
