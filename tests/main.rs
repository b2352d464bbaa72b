//! One binary for all integration tests.

mod driver;
mod host;
mod layers;
