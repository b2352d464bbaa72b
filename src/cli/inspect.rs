//! `rewire inspect`: what the layers of a network hold.

use super::inputs::ModelArgs;
use super::{Context, Outcome};
use serde::Serialize;
use std::fmt::Write;

/// Per layer: shape, weights, channels and multiply-accumulates kept; totals
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
}

/// Counts of one layer or of all; `kept` counts what is not exactly zero.
#[derive(Serialize, Default, Clone)]
struct Counts {
    weights: usize,
    weights_kept: usize,
    channels: usize,
    channels_kept: usize,
    filters: usize,
    filters_kept: usize,
    macs: usize,
    macs_kept: usize,
}

#[derive(Serialize)]
struct Row {
    name: String,
    shape: Vec<usize>,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Serialize)]
struct Printed {
    arch: String,
    parameters: usize,
    layers: Vec<Row>,
    /// Of the convolutions alone: what pruning may touch.
    prunable: Counts,
    total: Counts,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.weights += other.weights;
        self.weights_kept += other.weights_kept;
        self.channels += other.channels;
        self.channels_kept += other.channels_kept;
        self.filters += other.filters;
        self.filters_kept += other.filters_kept;
        self.macs += other.macs;
        self.macs_kept += other.macs_kept;
    }

    fn line(&self, name: &str, shape: &str) -> String {
        let share = |kept: usize, all: usize| {
            format!("{kept}/{all} {:6.2} %", 100.0 * kept as f64 / all.max(1) as f64)
        };
        format!(
            "{name:<24} {shape:<20} {:>28} {:>20} {:>20} {:>34}",
            share(self.weights_kept, self.weights),
            share(self.channels_kept, self.channels),
            share(self.filters_kept, self.filters),
            share(self.macs_kept, self.macs)
        )
    }
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let model = self.model.load(None, context)?;
        let (mut layers, mut prunable, mut total) =
            (Vec::new(), Counts::default(), Counts::default());
        for layer in model.layers()? {
            let kept = model.kept(&layer)?;
            let counts = Counts {
                weights: layer.weights(),
                weights_kept: kept.weights,
                channels: layer.shape[1],
                channels_kept: kept.channels,
                filters: layer.shape[0],
                filters_kept: kept.filters,
                macs: layer.macs(),
                macs_kept: kept.weights * layer.positions,
            };
            total.add(&counts);
            if layer.is_conv() {
                prunable.add(&counts);
            }
            layers.push(Row { name: layer.name, shape: layer.shape, counts });
        }
        let (arch, parameters) = (model.arch().to_string(), model.parameter_count());
        let printed = Printed { arch, parameters, layers, prunable, total };
        context.print(&printed.table()?, &printed)?;
        Ok(Outcome::Done)
    }
}

impl Printed {
    fn table(&self) -> Result<String, std::fmt::Error> {
        let mut text = format!("{}, {} parameters\n", self.arch, self.parameters);
        writeln!(
            text,
            "{:<24} {:<20} {:>28} {:>20} {:>20} {:>34}",
            "layer", "shape", "weights kept", "channels kept", "filters kept", "MACs kept"
        )?;
        for row in &self.layers {
            writeln!(text, "{}", row.counts.line(&row.name, &format!("{:?}", row.shape)))?;
        }
        writeln!(text, "{}", self.prunable.line("convolutions", ""))?;
        writeln!(text, "{}", self.total.line("total", ""))?;
        Ok(text)
    }
}
