//! Pruning.

pub mod budget;
