//! `rewire prune`: pruning of a trained network, without training.

use super::inputs::ModelArgs;
use super::{Context, Outcome, progress};
use crate::data::{Dataset, Need};
use crate::nn::{Model, Op, Weights};
use crate::prune::{Granularity, METHODS, PruneSettings, Pruner};
use crate::{Error, Seed, Tape, io, models};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Sets the weights, filters or channels of smallest norm to 0, without training
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// File of the pruned network
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Method: magnitude
    #[arg(long, value_name = "NAME", default_value = "magnitude")]
    method: String,
    /// What is kept or dropped as one: irregular (single weights), kernel, filter (output channels) or channel (input channels)
    #[arg(long, value_name = "NAME", default_value = "irregular")]
    granularity: String,
    /// layer: every layer keeps the same share; global: one ranking over all layers
    #[arg(long, value_name = "NAME", default_value = "layer")]
    scope: String,
    /// Share of the prunable weights that is kept, above 0 and at most 1
    #[arg(long, value_name = "D")]
    density: f64,
    /// Prunes linear layers too: all but the one that produces the logits
    #[arg(long)]
    linear: bool,
    /// Leaves bias and batch norm of pruned filters as they are
    #[arg(long)]
    keep_bn: bool,
    /// Data set whose test images measure the accuracy before and after [default: nothing is measured]
    #[arg(long, value_name = "SPEC")]
    data: Option<String>,
    /// Only the first N test images
    #[arg(long, value_name = "N", requires = "data")]
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Printed<'a> {
    output: &'a Path,
    density: f64,
    /// Ones in the masks.
    active: usize,
    /// Prunable weights that are not 0.
    nonzero: usize,
    prunable: usize,
    layers: Vec<KeptByLayer>,
    /// Weights of the layers that produce the logits, where they were left out.
    not_pruned: &'a [String],
    /// `null` without `--data`.
    accuracy: Option<Accuracy>,
}

#[derive(Serialize)]
struct KeptByLayer {
    name: String,
    weights: usize,
    active: usize,
    nonzero: usize,
}

/// Top-1, in percent of the images.
#[derive(Serialize)]
struct Accuracy {
    data: String,
    images: usize,
    before: f64,
    after: f64,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let settings = self.settings()?;
        settings.build()?;
        let data = self.data()?;
        let mut model = self.model.load(data.as_ref(), context)?;
        self.check_layers(&model)?;
        let pruner = Pruner::new(&settings, &model, context.seed.unwrap_or(Seed(1)))?;
        let before = data.as_ref().map(|data| accuracy(&model, data, context)).transpose()?;
        pruner.apply(&mut model)?;
        let after = data.as_ref().map(|data| accuracy(&model, data, context)).transpose()?;
        io::save_model(&self.output, &model)?;
        let layers = pruner.active_by_layer().into_iter().map(|(name, active)| {
            let values = model.param(&name)?.to_vec::<f32>()?;
            let nonzero = values.iter().filter(|w| **w != 0.0).count();
            Ok(KeptByLayer { name, weights: values.len(), active, nonzero })
        });
        let layers = layers.collect::<crate::Result<Vec<_>>>()?;
        let (active, prunable) = (pruner.active(), pruner.prunable());
        let measured = data.as_ref().zip(before).zip(after);
        let accuracy = measured.map(|((data, before), (after, images))| {
            let data = data.name.to_string();
            Accuracy { data, images, before: before.0, after }
        });
        let printed = Printed {
            output: &self.output,
            density: active as f64 / prunable as f64,
            active,
            nonzero: layers.iter().map(|layer| layer.nonzero).sum(),
            prunable,
            layers,
            not_pruned: pruner.spared(),
            accuracy,
        };
        context.print(&text(&printed)?, &printed)?;
        Ok(Outcome::Done)
    }

    fn data(&self) -> crate::Result<Option<Dataset>> {
        if self.limit == Some(0) {
            return Err(Error::param("--limit", 0, "at least 1"));
        }
        let Some(spec) = &self.data else { return Ok(None) };
        let mut data = Dataset::load_for(spec, Need::EVAL)?;
        if let (Some(limit), Some(test)) = (self.limit, &mut data.test) {
            test.truncate(limit);
        }
        Ok(Some(data))
    }

    /// `--linear` is given where nothing else could be pruned, and only where it prunes something.
    fn check_layers(&self, model: &Model) -> crate::Result<()> {
        let nodes = &model.graph().nodes;
        let convolutions = nodes.iter().any(|node| matches!(node.op, Op::Conv { .. }));
        if !convolutions && !self.linear {
            let want = "given: the network has no convolution, and linear layers are pruned only with this flag";
            return Err(Error::param("--linear", "absent", want));
        }
        let linear = nodes.iter().filter(|node| matches!(node.op, Op::Linear { .. })).count();
        let last = nodes.iter().rev().find(|node| !node.op.tensors().is_empty());
        let head = last.is_some_and(|node| matches!(node.op, Op::Linear { .. }));
        if self.linear && linear <= usize::from(head) {
            let want = "absent: the network has no linear layer but the one that produces the logits, which stays";
            return Err(Error::param("--linear", "given", want));
        }
        Ok(())
    }

    fn settings(&self) -> crate::Result<PruneSettings> {
        let known: Vec<&str> = METHODS.iter().filter(|m| m.post_training).map(|m| m.name).collect();
        if !known.contains(&self.method.as_str()) {
            let want = format!("{}; other methods prune in training", known.join(" or "));
            return Err(Error::param("--method", &self.method, want));
        }
        if !["layer", "global"].contains(&self.scope.as_str()) {
            return Err(Error::param("--scope", &self.scope, "layer or global"));
        }
        if !(self.density > 0.0 && self.density <= 1.0) {
            return Err(Error::param("--density", self.density, "above 0 and at most 1"));
        }
        let granularity = self.granularity.parse::<Granularity>()?;
        if self.keep_bn && granularity != Granularity::Filter {
            let want = "absent: only --granularity filter changes bias and batch norm";
            return Err(Error::param("--keep-bn", "given", want));
        }
        let mut keys = toml::Table::new();
        keys.insert("scope".into(), self.scope.as_str().into());
        keys.insert("keep_bn".into(), self.keep_bn.into());
        keys.insert("linear".into(), self.linear.into());
        Ok(PruneSettings { method: self.method.clone(), granularity, density: self.density, keys })
    }
}

/// Top-1 in percent, and the number of images.
fn accuracy(model: &Model, data: &Dataset, context: &Context) -> crate::Result<(f64, usize)> {
    let (split, weights) = (data.test()?, Weights::default());
    let bar = progress::bar(split.len(), "accuracy");
    let forward = |x: &_| model.forward_eval(&mut Tape::new(context.mode), x, &weights);
    let scores = models::evaluate(model, split, 128, forward, |images| bar.inc(images as u64))?;
    bar.finish_and_clear();
    Ok((scores.accuracy(), scores.images))
}

fn text(printed: &Printed) -> Result<String, std::fmt::Error> {
    let Printed { output, density, active, nonzero, prunable, layers, not_pruned, accuracy } =
        printed;
    let mut text = String::new();
    writeln!(
        text,
        "{active} of {prunable} prunable weights kept (density {density:.4}) -> {}",
        output.display()
    )?;
    if nonzero < active {
        writeln!(
            text,
            "only {nonzero} of them are nonzero: {} of the kept weights were 0 before",
            active - nonzero
        )?;
    }
    let width = layers.iter().map(|layer| layer.name.len()).max().unwrap_or(0);
    for KeptByLayer { name, weights, active, nonzero } in layers {
        let share = *active as f64 / *weights as f64;
        write!(text, "  {name:width$}  {active:>9} of {weights:>9}  {share:.4}")?;
        match nonzero < active {
            true => writeln!(text, "  {nonzero} nonzero")?,
            false => writeln!(text)?,
        }
    }
    for name in *not_pruned {
        writeln!(text, "not pruned: {name}, because the layer produces the logits")?;
    }
    match accuracy {
        Some(Accuracy { data, images, before, after }) => writeln!(
            text,
            "clean accuracy on {images} test images of {data}: {before:.2} % before, {after:.2} % after"
        )?,
        None => writeln!(
            text,
            "accuracy not measured: --data SPEC measures it before and after, `rewire eval {} --data SPEC` later",
            output.display()
        )?,
    }
    writeln!(
        text,
        "next, to win accuracy back: rewire train fine-tune --init {} --data SPEC",
        output.display()
    )?;
    Ok(text)
}
