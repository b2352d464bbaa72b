//! One binary for all integration tests.

mod host;
mod layers;
