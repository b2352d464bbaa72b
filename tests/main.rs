//! One binary for all integration tests.

mod data;
mod host;
mod layers;
mod ops;
