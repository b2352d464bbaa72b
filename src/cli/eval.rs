//! `rewire eval`: accuracy and loss on the test images.

use super::inputs::{DataArgs, ModelArgs, PlanArgs, warn};
use super::{Context, Outcome, progress};
use crate::data::Need;
use crate::models;
use serde::Serialize;

/// Clean accuracy, top-1 and top-5, and loss on the test images
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Images per batch
    #[arg(long, value_name = "N", default_value_t = 128)]
    batch_size: usize,
    #[command(flatten)]
    plan: PlanArgs,
}

/// Accuracies in percent; `accuracy` is the top-1, under the name that every command's result has for it.
#[derive(Serialize)]
struct Printed {
    images: usize,
    accuracy: f64,
    top1: f64,
    top5: f64,
    loss: f64,
    /// Names of the classes, in the order of the logits; empty where they are not known.
    class_names: Vec<String>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let (model, data) = self.model.load_with(&self.data, Need::EVAL, context)?;
        let split = data.test()?;
        let mut plan = self.plan.build(&model, split, self.batch_size, context)?;
        warn(&data.warnings(Need::EVAL));
        let bar = progress::bar(split.len(), "eval");
        let done = |images| bar.inc(images as u64);
        let scores = models::evaluate(&model, split, self.batch_size, |x| plan.run(x), done)?;
        bar.finish_and_clear();
        let (accuracy, top5) = (scores.accuracy(), scores.top5());
        let text = format!(
            "{} images of {}: accuracy {accuracy:.2} %, top-5 {top5:.2} %, loss {:.6}",
            scores.images, data.name, scores.loss
        );
        let class_names = match model.class_names() {
            [] => data.class_names.clone(),
            names => names.to_vec(),
        };
        let (images, loss) = (scores.images, scores.loss);
        let json = Printed { images, accuracy, top1: accuracy, top5, loss, class_names };
        context.print(&text, &json)?;
        Ok(Outcome::Done)
    }
}
