//! One binary for all integration tests.

mod checkpoint;
mod cli;
mod data;
mod driver;
mod fixture;
mod host;
mod layers;
mod models;
mod ops;
mod optim;
mod pytorch;
mod pytorch_ops;
mod shrink;
