//! What a run tells its caller about its progress.

use crate::train::Event;

/// A message of a run to its caller.
pub enum Progress<'a> {
    /// Training starts, or is resumed, after `done` of `total` steps.
    Training {
        /// Steps done so far.
        done: u64,
        /// Steps of the whole run.
        total: u64,
    },
    /// Something happened in training.
    Event(&'a Event),
    /// The best checkpoint is being measured.
    Measuring {
        /// Images done.
        done: usize,
        /// Images of the test set.
        total: usize,
    },
}
