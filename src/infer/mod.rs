//! Inference: networks compiled into plans, how fast the executions of one set of weights are, and whether they agree.

mod bench;
mod choose;
mod cpu;
mod fused;
mod gpu;
mod gpu_layers;
mod gpu_ready;
#[cfg(test)]
mod gpu_tests;
mod gpu_values;
mod plan;
mod planner;
mod reference;
mod remember;
mod result;
mod step;
mod train_step;
mod way;

pub use bench::Bench;
pub use plan::{Algorithm, BuildTimes, Choice, Format, Plan, PlannedLayer};
pub use reference::{ConvInput, Reference, reference};
pub use result::{BenchResult, BenchRow, Execution, Figures, PlanRow};
pub use train_step::TrainStep;
