//! One binary for all integration tests.

mod checkpoint;
mod cli;
mod coverage;
mod data;
mod driver;
mod example;
mod fixture;
mod host;
mod kernels;
mod layers;
mod models;
mod ops;
mod optim;
mod pytorch;
mod pytorch_ops;
mod shrink;
