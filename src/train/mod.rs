//! Training: the loop, its settings, and the events it tells an observer. It knows no file format.

mod divergence;
mod event;
mod noise;
mod settings;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod trainer;

pub use event::{EpochEvent, Event, StepEvent};
pub use noise::learnt_alphas;
pub use settings::{Loss, TrainExecution, TrainSettings};
pub use trainer::{Best, Trainer};
