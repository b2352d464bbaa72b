//! Files of networks and tensors.

mod checkpoint;
mod kind;
mod onnx;
mod state_dict;
pub mod tensorboard;
mod tensors;

pub use checkpoint::{Hints, load_model, model_bytes, read_model, save_model, stored_arch};
pub use onnx::{ImportSettings, Pixels, load_onnx, onnx_bytes, read_onnx, save_onnx};
pub use tensors::{StoredTensor, list_tensors, load_tensors, read_tensors, save_tensors};
