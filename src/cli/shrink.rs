//! `rewire shrink`: removes dead channels.

use super::inputs::ModelArgs;
use super::{Context, Outcome};
use crate::nn::{Layer, Model};
use crate::{Error, io, prune};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Removes the channels that no logit depends on: a smaller network with the same logits
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// File of the smaller network (safetensors)
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Size {
    parameters: usize,
    weights: usize,
    macs: usize,
    /// Output channels of all convolutions and linear layers.
    channels: usize,
    /// Of the file.
    bytes: u64,
}

#[derive(Serialize)]
struct Printed<'a> {
    before: Size,
    after: Size,
    output: &'a PathBuf,
}

impl Size {
    /// Of a network and its file.
    fn of(model: &Model, path: &Path) -> crate::Result<Self> {
        let layers = model.layers()?;
        let file = std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
        Ok(Self {
            parameters: model.parameter_count(),
            weights: layers.iter().map(Layer::weights).sum(),
            macs: layers.iter().map(Layer::macs).sum(),
            channels: layers.iter().map(|layer| layer.shape[0]).sum(),
            bytes: file.len(),
        })
    }
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let model = self.model.load(None, context)?;
        // Before the output is written, which may replace the file.
        let before = Size::of(&model, &self.model.model)?;
        let shrunk = prune::shrink(&model)?;
        io::save_model(&self.output, &shrunk)?;
        let after = Size::of(&shrunk, &self.output)?;
        let mut text = format!("{} -> {}\n", self.model.model.display(), self.output.display());
        match before.channels - after.channels {
            0 if before.weights == after.weights => {
                text += concat!(
                    "nothing to remove: every channel counts for a logit. ",
                    "`rewire prune --granularity filter` or `channel` prunes channels\n"
                )
            }
            removed => {
                // Writing to a String cannot fail.
                _ = writeln!(text, "{removed} of {} channels removed", before.channels);
            }
        }
        for (what, before, after) in [
            ("parameters", before.parameters, after.parameters),
            ("multiply-accumulates per image", before.macs, after.macs),
        ] {
            _ = writeln!(text, "  {what:32}{before:>12} -> {after}");
        }
        _ = writeln!(text, "  {:32}{:>12} -> {}", "bytes of the file", before.bytes, after.bytes);
        text += "the logits are those of the input up to rounding, and so is the accuracy";
        context.print(&text, &Printed { before, after, output: &self.output })?;
        Ok(Outcome::Done)
    }
}
