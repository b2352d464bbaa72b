//! What a training run tells its observer.

use crate::prune::Rewired;

/// Something that happened. After a step and after an epoch the run can be stopped and resumed.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A step was done.
    Step(StepEvent),
    /// The masks moved at the end of an epoch (from 1).
    Rewired(usize, Rewired),
    /// An epoch ended and was evaluated.
    Epoch(EpochEvent),
}

/// One step. Losses are those before its update, means over the batch.
#[derive(Debug, Clone, PartialEq)]
pub struct StepEvent {
    /// Steps done, this one included.
    pub step: u64,
    /// Epoch, from 1.
    pub epoch: usize,
    /// Learning rate.
    pub lr: f64,
    /// The whole loss, as minimised.
    pub loss: f64,
    /// Cross-entropy of the clean images, where they were run.
    pub clean_loss: Option<f64>,
    /// Cross-entropy of the adversarial images, where there were any.
    pub adversarial_loss: Option<f64>,
    /// `(rho/2)·Σ(w⊙m − z)²`, where there is such a term.
    pub dynamic_l2: Option<f64>,
    /// Images in the batch.
    pub images: usize,
}

/// One epoch.
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
    /// Percent of the test images.
    pub test_accuracy: f64,
    /// Percent of the validation images, where some are held out: then the best epoch is the best by this.
    pub validation_accuracy: Option<f64>,
    /// Weights that could be pruned.
    pub prunable: usize,
    /// Ones in their masks.
    pub active: usize,
    /// Those that are not 0.
    pub nonzero: usize,
    /// Whether its checkpoint is the best so far.
    pub best: bool,
}
