//! The events that a training run tells its observer.

use crate::prune::Rewired;

/// An event of a training run. After a step and after an epoch the run can be stopped, and resumed later.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A step was done.
    Step(StepEvent),
    /// The pruning method changed the masks at the end of this epoch (counted from 1).
    Rewired(usize, Rewired),
    /// An epoch ended and was evaluated.
    Epoch(EpochEvent),
}

/// One step. Its losses are means over the batch, computed before the update of the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct StepEvent {
    /// Steps done so far, including this one.
    pub step: u64,
    /// Epoch, from 1.
    pub epoch: usize,
    /// Learning rate.
    pub lr: f64,
    /// The whole loss that is minimised: the weighted sum of the parts below.
    pub loss: f64,
    /// Cross-entropy of the clean images; `None` where training does not run them.
    pub clean_loss: Option<f64>,
    /// Cross-entropy of the adversarial images; `None` without an adversary.
    pub adversarial_loss: Option<f64>,
    /// The penalty `(rho/2)·Σ(w⊙m − z)²` (dynamic L2); `None` without it.
    pub dynamic_l2: Option<f64>,
    /// Images in the batch.
    pub images: usize,
}

/// One epoch, after its evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct EpochEvent {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Steps done.
    pub step: u64,
    /// Learning rate of its last step.
    pub lr: f64,
    /// Mean of the whole loss over its images.
    pub train_loss: f64,
    /// Mean cross-entropy of the test images.
    pub test_loss: f64,
    /// Correctly classified test images, in percent.
    pub test_accuracy: f64,
    /// Correctly classified validation images, in percent, where some are held out: then this chooses the best epoch.
    pub validation_accuracy: Option<f64>,
    /// Number of prunable weights.
    pub prunable: usize,
    /// Number of ones in their masks.
    pub active: usize,
    /// Number of prunable weights that are not 0.
    pub nonzero: usize,
    /// Whether this epoch has the best checkpoint so far.
    pub best: bool,
}
