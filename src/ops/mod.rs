//! Operations: one file each, with its equation, shape checks, CPU path, kernel launches and gradient.

pub mod elementwise;

pub use elementwise::{add, relu};
