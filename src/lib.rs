//! `rewire` trains, prunes, attacks and serves convolutional networks with hand-written CUDA kernels.

pub mod attack;
pub mod bench;
pub mod cli;
mod cpu;
pub mod data;
pub mod device;
pub mod dtype;
pub mod error;
pub mod file;
pub mod infer;
pub mod io;
pub mod models;
pub mod nn;
pub mod npy;
pub mod ops;
pub mod optim;
pub mod prune;
pub mod report;
pub mod rng;
pub mod run;
pub mod tape;
pub mod tensor;
pub mod train;

pub use device::Device;
pub use dtype::{DType, Mode};
pub use error::{Error, ErrorKind, Result};
pub use rng::Seed;
pub use tape::{Gradients, Tape};
pub use tensor::Tensor;
