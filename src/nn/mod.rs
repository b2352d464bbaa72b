//! Networks. A [`Model`] is a [`Graph`] of operations with the tensors that the operations name.
//!
//! Start with [`Builder`] to write a network of your own, or with [`crate::models::initialised`] for one of the registry.
//! [`Model::forward_train`] and [`Model::forward_eval`] run a network on a tape; [`crate::infer::Plan`] compiles it.

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
pub use builder::{Blueprint, Builder, Conv2d, Parameter};
pub use graph::{Graph, Node, Op};
pub use init::Init;
pub use layers::{Kept, Layer};
pub use model::{Model, RunningStats};
pub use normalization::{NORMALIZATIONS, Normalization, NormalizationEntry};
pub use weights::{Noise, Weights};

/// The windows of [`Builder::max_pool`] and [`Builder::avg_pool`].
pub use crate::ops::Window;
