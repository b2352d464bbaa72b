//! How far a run is.

use crate::train::Event;

/// What a run tells its caller while it goes on.
pub enum Progress<'a> {
    /// Training starts, or goes on, after `done` of `total` steps.
    Training {
        /// Steps done before.
        done: u64,
        /// Steps of the whole run.
        total: u64,
    },
    /// Something happened in training.
    Event(&'a Event),
    /// So many of the test images have been measured.
    Measuring {
        /// Images done.
        done: usize,
        /// Images of the test set.
        total: usize,
    },
}
