//! One binary for all integration tests.

mod data;
mod driver;
mod host;
mod layers;
