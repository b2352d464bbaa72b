//! Inference: networks compiled into plans, and the float64 network that they are compared with.

mod buffers;
mod choose;
mod conversion;
mod cpu;
mod fused;
mod gpu;
mod gpu_device;
mod gpu_layers;
mod gpu_ready;
#[cfg(test)]
mod gpu_tests;
mod gpu_values;
mod layout;
mod plan;
mod planner;
mod reference;
mod remember;
mod step;
mod way;

pub use plan::{BuildTimes, Plan, PlannedLayer};
pub use reference::{ConvInput, Reference, reference};
pub use way::{Algorithm, Choice, Format};
