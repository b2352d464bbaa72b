//! Inference: how fast the four executions of one set of weights are, and whether they agree.

mod result;

pub use result::{BenchResult, BenchRow, Execution, Figures};
