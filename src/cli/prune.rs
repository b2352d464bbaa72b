//! `rewire prune`: pruning of a trained network, without training.

use super::inputs::ModelArgs;
use super::{Context, Outcome};
use crate::prune::{Granularity, METHODS, PruneSettings, Pruner};
use crate::{Error, Seed, io};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Prunes a trained network without training it
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Where the pruned network goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Method: magnitude
    #[arg(long, value_name = "NAME", default_value = "magnitude")]
    method: String,
    /// What goes as one: irregular, kernel, filter or channel
    #[arg(long, value_name = "NAME", default_value = "irregular")]
    granularity: String,
    /// Where ranks are taken: layer or global
    #[arg(long, value_name = "NAME", default_value = "layer")]
    scope: String,
    /// Kept share of the convolutions' weights
    #[arg(long, value_name = "D")]
    density: f64,
    /// Leaves bias and batch norm of pruned filters as they are
    #[arg(long)]
    keep_bn: bool,
}

#[derive(Serialize)]
struct Printed<'a> {
    output: &'a Path,
    density: f64,
    active: usize,
    prunable: usize,
    layers: Vec<KeptByLayer>,
}

#[derive(Serialize)]
struct KeptByLayer {
    name: String,
    weights: usize,
    active: usize,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let settings = self.settings()?;
        settings.build()?;
        let mut model = self.model.load(None, context)?;
        let pruner = Pruner::new(&settings, &model, context.seed.unwrap_or(Seed(1)))?;
        pruner.apply(&mut model)?;
        io::save_model(&self.output, &model)?;
        let sizes = pruner.masks().map(|(_, mask)| mask.len());
        let layers = pruner.active_by_layer().into_iter().zip(sizes);
        let (active, prunable) = (pruner.active(), pruner.prunable());
        let printed = Printed {
            output: &self.output,
            density: active as f64 / prunable.max(1) as f64,
            active,
            prunable,
            layers: layers
                .map(|((name, active), weights)| KeptByLayer { name, weights, active })
                .collect(),
        };
        context.print(&text(&printed)?, &printed)?;
        Ok(Outcome::Done)
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
        let mut keys = toml::Table::new();
        keys.insert("scope".into(), self.scope.as_str().into());
        keys.insert("keep_bn".into(), self.keep_bn.into());
        Ok(PruneSettings {
            method: self.method.clone(),
            granularity: self.granularity.parse::<Granularity>()?,
            density: self.density,
            keys,
        })
    }
}

fn text(printed: &Printed) -> Result<String, std::fmt::Error> {
    let Printed { output, density, active, prunable, layers } = printed;
    let mut text = String::new();
    writeln!(text, "{active} of {prunable} weights kept ({density:.4}) -> {}", output.display())?;
    let width = layers.iter().map(|layer| layer.name.len()).max().unwrap_or(0);
    for KeptByLayer { name, weights, active } in layers {
        let share = *active as f64 / *weights as f64;
        writeln!(text, "  {name:width$}  {active:>9} of {weights:>9}  {share:.4}")?;
    }
    Ok(text)
}
