//! Inference with irregularly pruned filters: layers compiled for their shape, on activations that stay in a
//! [`Layout`] of planes from layer to layer.
//!
//! A kept weight is one broadcast and one fixed offset for all pixels of a plane. A tile of sums stays in
//! registers while a list of its filter's kept weights runs over it: all of them, or those of a slice of the channels,
//! between which the sums wait in memory. Bias, residual, ReLU and 2×2 maximum follow in registers. Many images lie along
//! the lanes ([`batched`]), few are computed one by one with pixels along the lanes ([`single`]). Every output is summed in one
//! order, so its bits do not depend on the number of threads.

mod batched;
mod compiled;
mod layer;
mod layout;
mod lists;
mod loops;
mod moves;
mod plane;
mod single;
mod spread;
mod tile;
mod tiles;

pub(crate) use layer::SparseLayer;
pub(crate) use layout::Layout;
pub(crate) use moves::{from_lanes, global_avg_pool, max_pool, pack, to_lanes, unpack};
