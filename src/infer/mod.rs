//! Inference: how fast the four executions of one set of weights are, and whether they agree.

mod reference;
mod result;

pub use reference::{ConvInput, Reference, reference};
pub use result::{BenchResult, BenchRow, Execution, Figures};
