//! `rewire predict`: logits of the test images, or of a folder of images without labels.

use super::inputs::{DataArgs, ModelArgs, PlanArgs, warn};
use super::{Context, Outcome, progress};
use crate::data::Need;
use crate::{models, npy};
use serde::Serialize;
use std::path::PathBuf;

/// Logits of the test images: one row per image, one column per class
///
/// The images need no labels: `--data image-folder:DIR` may name a folder of images without class folders. With --json the
/// result lists the file of each row, where images are files, and the class with the largest logit.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// File for the logits: NumPy's .npy, float32, shape [images, classes]
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Images per batch
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
    /// Names of the classes, in the order of the columns; empty where they are not known.
    class_names: &'a [String],
    /// The image of each row; empty where images have no files of their own.
    files: Vec<String>,
    /// The column of the largest logit of each row.
    predictions: Vec<usize>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let (model, data) = self.model.load_with(&self.data, Need::PREDICT, context)?;
        let split = data.test()?;
        let mut plan = self.plan.build(&model, split, self.batch_size, context)?;
        warn(&data.warnings(Need::PREDICT));
        let bar = progress::bar(split.len(), "predict");
        let done = |images| bar.inc(images as u64);
        let logits = models::predict(&model, split, self.batch_size, |x| plan.run(x), done)?;
        bar.finish_and_clear();
        let (images, classes) = (split.len(), model.arch().classes);
        npy::write(&self.output, &[images, classes], &logits)?;
        let text =
            format!("logits of {images} images, {classes} classes -> {}", self.output.display());
        let printed = Printed {
            images,
            classes,
            output: &self.output,
            class_names: model.class_names(),
            files: data.test_files.iter().map(|path| path.display().to_string()).collect(),
            predictions: logits.chunks_exact(classes).map(largest).collect(),
        };
        context.print(&text, &printed)?;
        Ok(Outcome::Done)
    }
}

/// The place of the largest logit; of equal ones the first.
fn largest(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, class| if logits[class] > logits[best] { class } else { best })
}
