//! `rewire predict`: logits of the test images.

use super::inputs::{DataArgs, ModelArgs, PlanArgs};
use super::{Context, Outcome, progress};
use crate::data::Need;
use crate::{models, npy};
use serde::Serialize;
use std::path::PathBuf;

/// Logits [N, classes] of the test images, in order
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Where the logits go: an .npy file of f4
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Images at once
    #[arg(long, value_name = "N", default_value_t = 128)]
    batch_size: usize,
    #[command(flatten)]
    plan: PlanArgs,
}

#[derive(Serialize)]
struct Printed<'a> {
    images: usize,
    classes: usize,
    output: &'a PathBuf,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let (model, data) = self.model.load_with(&self.data, Need::PREDICT, context)?;
        let split = data.test()?;
        let mut plan = self.plan.build(&model, split, self.batch_size, context)?;
        let bar = progress::bar(split.len(), "predict");
        let done = |images| bar.inc(images as u64);
        let logits = models::predict(&model, split, self.batch_size, |x| plan.run(x), done)?;
        bar.finish_and_clear();
        let (images, classes) = (split.len(), model.arch().classes);
        npy::write(&self.output, &[images, classes], &logits)?;
        let text = format!("logits [{images}, {classes}] -> {}", self.output.display());
        context.print(&text, &Printed { images, classes, output: &self.output })?;
        Ok(Outcome::Done)
    }
}
