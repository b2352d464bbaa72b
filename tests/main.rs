//! One binary for all integration tests.

mod attack;
mod checkpoint;
mod cli;
mod data;
mod driver;
mod fixture;
mod host;
mod layers;
mod models;
mod ops;
mod prune;
mod pytorch;
mod pytorch_ops;
mod run;
mod shrink;
mod train;
