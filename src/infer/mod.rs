//! Inference: networks compiled into plans, and the float64 network that they are compared with.

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
mod step;
mod way;

pub use plan::{Algorithm, BuildTimes, Choice, Format, Plan, PlannedLayer};
pub use reference::{ConvInput, Reference, reference};
