//! ONNX files: networks of other programs in, networks of this one out.
//!
//! Import goes node by node in the order of the file. A value is either part of the network, written down as nodes of
//! [`crate::nn::Graph`], or a constant, which is computed at once: exporters leave the shapes of flattened images as
//! small programs over constants.

mod attributes;
mod checks;
mod constant;
mod export;
mod faults;
mod graph;
mod import;
mod importer;
mod layers;
mod pixels;
mod proto;
mod shapes;

pub use export::{onnx_bytes, save_onnx};
pub use import::{ImportSettings, load_onnx, read_onnx};
pub use pixels::Pixels;
