//! Inference: how fast the four executions of one set of weights are, and whether they agree.

mod bench;
mod cpu;
mod fused;
mod plan;
mod reference;
mod result;
mod train_step;

pub use bench::Bench;
pub use plan::Plan;
pub use reference::{ConvInput, Reference, reference};
pub use result::{BenchResult, BenchRow, Execution, Figures};
pub use train_step::train_step;
