//! Networks as data: a [`Graph`] of operations, the tensors its nodes name, and one interpreter that
//! runs it forward on a tape. Architectures are functions that write such a graph.

mod arch;
mod builder;
mod forward;
mod graph;
mod init;
mod layers;
mod memory;
mod model;
mod normalization;
mod weights;

pub use arch::{Arch, ArchSpec};
pub use builder::{Blueprint, Builder, Parameter};
pub use graph::{Graph, Node, Op};
pub use init::Init;
pub use layers::{Kept, Layer};
pub use model::{Model, RunningStats};
pub use normalization::{NORMALIZATIONS, Normalization, NormalizationEntry};
pub use weights::{Noise, Weights};
