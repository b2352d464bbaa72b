//! `rewire` trains, prunes, attacks and serves convolutional networks with hand-written CUDA kernels.

pub mod data;
pub mod device;
pub mod error;
pub mod file;
pub mod npy;
pub mod rng;

pub use error::{Error, ErrorKind, Result};
