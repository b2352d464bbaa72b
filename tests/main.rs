//! One binary for all integration tests.

mod attack;
mod attacks;
mod checkpoint;
mod cli;
mod coverage;
mod data;
mod driver;
mod example;
mod fixture;
mod host;
mod json;
mod kernels;
mod layers;
mod models;
mod onnx;
mod ops;
mod optim;
mod plan;
mod prune;
mod pytorch;
mod pytorch_ops;
mod run;
mod seed;
mod shrink;
mod tensorboard;
mod train;
