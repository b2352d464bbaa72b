//! `rewire inspect`: what the layers of a network hold, or the tensors of any other file.

use super::inputs::ModelArgs;
use super::{Context, Outcome, one_line};
use crate::io::{self, StoredTensor};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Prints what is in a network's file: for each layer its shape, and how many weights are not 0
///
/// For a safetensors file that rewire has not written: the tensors' names, types, shapes and numbers of values that are not 0,
/// and the metadata. --arch reads such a file as a network.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
}

/// Counts of one layer or of all. `…_kept` are the JSON's names for nonzero: weights that are not exactly 0, the channels and
/// filters that hold one, and the multiply-accumulates with one. Masks, by which a weight of 0 can be active, are not in
/// the file.
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
    /// In the order of the logits; empty where they are not known.
    class_names: Vec<String>,
    parameters: usize,
    layers: Vec<Row>,
    /// Of the convolutions alone: what pruning may touch.
    prunable: Counts,
    total: Counts,
    /// nonzero / prunable: the share of the convolution weights that are not 0.
    nonzero_share: f64,
}

/// What the columns of the table are.
const COLUMNS: &str = "\
nonzero weights  weights that are not 0. Masks, which can keep a weight that is 0, are in a run's folder, not in this file
used channels    input channels that a nonzero weight reads
used filters     filters (output channels) with a nonzero weight
nonzero MACs     multiply-accumulates with a nonzero weight, for one image
convolutions     the layers that pruning may touch
";

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

/// A file that is no network.
#[derive(Serialize)]
struct Listed {
    tensors: Vec<StoredTensor>,
    metadata: BTreeMap<String, String>,
}

impl Listed {
    fn table(&self) -> Result<String, std::fmt::Error> {
        let elements: usize = self.tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum();
        let mut text = format!("{} tensors, {elements} values\n", self.tensors.len());
        let names = self.tensors.iter().map(|tensor| tensor.name.chars().count());
        let width = names.max().unwrap_or(0).max(6);
        writeln!(text, "{:<width$} {:<8} {:<20} {:>28}", "tensor", "type", "shape", "nonzero")?;
        for StoredTensor { name, dtype, shape, nonzero } in &self.tensors {
            let name = one_line(name);
            let all: usize = shape.iter().product();
            let share = nonzero.map_or("-".to_owned(), |nonzero| {
                format!("{nonzero}/{all} {:6.2} %", 100.0 * nonzero as f64 / all.max(1) as f64)
            });
            writeln!(text, "{name:<width$} {dtype:<8} {:<20} {share:>28}", format!("{shape:?}"))?;
        }
        for (key, value) in &self.metadata {
            writeln!(text, "{}: {}", one_line(key), one_line(value))?;
        }
        Ok(text)
    }
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        if !self.model.is_described() {
            let (tensors, metadata) = io::list_tensors(&self.model.model)?;
            let own = |json: &String| {
                let document = serde_json::from_str::<serde_json::Value>(json);
                document.is_ok_and(|document| document.get("arch").is_some())
            };
            if !metadata.get("rewire").is_some_and(own) {
                let listed = Listed { tensors, metadata };
                context.print(&listed.table()?, &listed)?;
                return Ok(Outcome::Done);
            }
        }
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
        let class_names = model.class_names().to_vec();
        let nonzero_share = prunable.weights_kept as f64 / prunable.weights.max(1) as f64;
        let printed =
            Printed { arch, class_names, parameters, layers, prunable, total, nonzero_share };
        context.print(&printed.table()?, &printed)?;
        Ok(Outcome::Done)
    }
}

impl Printed {
    fn table(&self) -> Result<String, std::fmt::Error> {
        let mut text = format!("{}, {} parameters\n", self.arch, self.parameters);
        if !self.class_names.is_empty() {
            writeln!(text, "classes: {}", self.class_names.join(", ").escape_debug())?;
        }
        writeln!(
            text,
            "{:<24} {:<20} {:>28} {:>20} {:>20} {:>34}",
            "layer", "shape", "nonzero weights", "used channels", "used filters", "nonzero MACs"
        )?;
        for row in &self.layers {
            writeln!(
                text,
                "{}",
                row.counts.line(&one_line(&row.name), &format!("{:?}", row.shape))
            )?;
        }
        writeln!(text, "{}", self.prunable.line("convolutions", ""))?;
        writeln!(text, "{}", self.total.line("total", ""))?;
        writeln!(text, "\nnonzero share of the convolutions: {:.4}", self.nonzero_share)?;
        text += COLUMNS;
        Ok(text)
    }
}
