//! `rewire export`: networks for other programs.

use super::inputs::ModelArgs;
use super::{Context, Outcome};
use crate::io;
use serde::Serialize;
use std::path::PathBuf;

/// Writes the network as ONNX: input `input` [N, C, H, W] in [0, 1], output `logits`, normalisation inside
///
/// Opset 17, the number of images is free, tensors have their names in the state dict. A masked network keeps its zeros; a shrunk
/// one is as small in the file.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Where the network goes: an ONNX file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Store convolutions of which less than half is left as sparse initializers: the file is smaller, and readers expand them to
    /// dense weights when they load it (onnxruntime does, OpenVINO refuses such files)
    #[arg(long)]
    sparse: bool,
}

#[derive(Serialize)]
struct Printed<'a> {
    bytes: u64,
    output: &'a PathBuf,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let model = self.model.load(None, context)?;
        let bytes = io::save_onnx(&self.output, &model, self.sparse)? as u64;
        let text = format!("{bytes} bytes -> {}", self.output.display());
        context.print(&text, &Printed { bytes, output: &self.output })?;
        Ok(Outcome::Done)
    }
}
