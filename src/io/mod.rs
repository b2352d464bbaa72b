//! Files of networks and tensors.

mod checkpoint;
mod tensors;

pub use checkpoint::{Hints, load_model, model_bytes, save_model};
pub use tensors::{load_tensors, save_tensors};
