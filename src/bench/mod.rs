//! Timing: how fast the executions of one set of weights are and whether they agree, and what a training step takes.

mod clock;
mod executions;
mod result;
mod train_step;

pub use executions::Bench;
pub use result::{BenchResult, BenchRow, Execution, Figures, PlanRow};
pub use train_step::TrainStep;
