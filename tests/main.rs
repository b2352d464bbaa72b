//! One binary for all integration tests.

mod data;
mod host;
mod fixture;
mod layers;
mod models;
mod pytorch;
