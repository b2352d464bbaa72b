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
mod run;
mod train;
mod pytorch_ops;
mod shrink;
mod zz;
