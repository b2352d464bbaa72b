//! A run whose number of epochs was changed after it had begun.

use serde::{Deserialize, Serialize};

/// What `train --resume DIR --set train.epochs=N` has changed.
///
/// The run goes on from its last checkpoint with the schedules of N epochs. So a learning rate that falls over the whole
/// run, and a prune rate that does, jump there: the epochs before were run under the schedules of `from` epochs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prolonged {
    /// Whole epochs that were done.
    pub epoch: usize,
    /// Epochs of the run before.
    pub from: usize,
    /// Epochs of the run from here on.
    pub to: usize,
    /// Learning rate that the run goes on with.
    pub lr: f64,
}
