//! Files of networks and tensors.

mod checkpoint;
pub mod tensorboard;
mod tensors;

pub use checkpoint::{Hints, load_model, model_bytes, save_model};
pub use tensors::{load_tensors, save_tensors};
