//! `rewire shrink`: removes dead channels.

use super::inputs::ModelArgs;
use super::{Context, Outcome};
use crate::nn::{Layer, Model};
use crate::{io, prune};
use serde::Serialize;
use std::path::PathBuf;

/// Removes the channels that no logit depends on
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Where the smaller network goes: a safetensors file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Size {
    parameters: usize,
    weights: usize,
    macs: usize,
}

#[derive(Serialize)]
struct Printed<'a> {
    before: Size,
    after: Size,
    output: &'a PathBuf,
}

impl Size {
    fn of(model: &Model) -> crate::Result<Self> {
        let layers = model.layers()?;
        Ok(Self {
            parameters: model.parameter_count(),
            weights: layers.iter().map(Layer::weights).sum(),
            macs: layers.iter().map(Layer::macs).sum(),
        })
    }
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let model = self.model.load(None, context)?;
        let shrunk = prune::shrink(&model)?;
        io::save_model(&self.output, &shrunk)?;
        let (before, after) = (Size::of(&model)?, Size::of(&shrunk)?);
        let text = format!(
            "{} -> {} parameters, {} -> {} multiply-accumulates an image -> {}",
            before.parameters,
            after.parameters,
            before.macs,
            after.macs,
            self.output.display()
        );
        context.print(&text, &Printed { before, after, output: &self.output })?;
        Ok(Outcome::Done)
    }
}
