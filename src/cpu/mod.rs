//! Arithmetic of the heavy operations on host slices: what `kernels/` is on a GPU.
//!
//! Activations are `[N, H, W, C]`, filters `[K, R, S, C]`. Every sum has one order, whatever tasks
//! the work is cut into, so results have the same bits for any number of threads. Lengths are the
//! caller's to check; a wrong one panics, it never reads out of bounds.

pub(crate) mod aligned;
pub(crate) mod batch_norm;
pub(crate) mod bf16;
pub(crate) mod conv2d;
pub(crate) mod conv2d_weight;
pub(crate) mod conv_shape;
pub(crate) mod few_channels;
pub(crate) mod finish;
pub(crate) mod gather;
pub(crate) mod isa;
mod kernel;
pub(crate) mod lanes;
pub(crate) mod linear;
pub(crate) mod nhwc;
pub(crate) mod pack;
pub(crate) mod panel;
pub(crate) mod planes;
pub(crate) mod pointwise;
pub(crate) mod pool2d;
pub(crate) mod round;
pub(crate) mod scratch;
pub(crate) mod sparse;
mod split;
pub(crate) mod taps;
pub(crate) mod team;
mod term;
mod vector;
pub(crate) mod window;
pub(crate) mod window_pool;
pub(crate) mod winograd;

#[cfg(test)]
mod tests;
