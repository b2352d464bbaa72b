//! What is left of each layer.

use super::chart::{Axis, Chart, Kind, Series};
use super::input::Report;
use super::load::Run;
use super::networks::Networks;
use super::section::{Part, Section};
use super::table::{Table, cells};
use super::text::fixed;
use super::text::grouped;
use crate::Result;
use crate::run::LayerResult;

/// The section.
pub fn section(report: &Report, networks: &Networks) -> Result<Option<Section>> {
    let mut parts: Vec<Part> = chart(report, networks).map(Part::Chart).into_iter().collect();
    let runs = networks.runs.iter().zip(&report.runs);
    parts.extend(runs.map(|(&network, run)| Part::Table(table(networks.name(network), run))));
    Ok(Section::new("layers", "Layers", parts))
}

/// Kept share of each layer's weights, all pruned runs beside each other.
fn chart(report: &Report, networks: &Networks) -> Option<Chart> {
    let pruned = || {
        let runs = networks.runs.iter().copied().zip(&report.runs);
        runs.filter_map(|(network, run)| {
            let result = run.result.as_ref()?;
            (result.active < result.prunable).then_some((network, &result.layers))
        })
    };
    let mut names: Vec<&str> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for layer in pruned().flat_map(|(_, layers)| layers) {
        if seen.insert(&layer.name) {
            names.push(&layer.name);
        }
    }
    let series = pruned().map(|(network, layers)| {
        let value = |name: &&str| {
            let layer = layers.iter().find(|layer| layer.name == *name)?;
            Some(100.0 * density(layer))
        };
        let values = names.iter().map(value).collect();
        Series::bars(networks.name(network).to_owned(), Some(network), values)
    });
    let series = series.collect();
    let short = |name: &&str| name.strip_suffix(".weight").unwrap_or(name).to_owned();
    Chart::new(
        Kind::Columns,
        "Weights kept by layer".into(),
        "Percent of the layer's weights.",
        Axis { categories: names.iter().map(short).collect(), ..Axis::default() },
        Axis::percent("%"),
        series,
    )
}

fn density(layer: &LayerResult) -> f64 {
    layer.active as f64 / layer.weights.max(1) as f64
}

/// What is left of each layer of a run.
fn table(name: &str, run: &Run) -> Table {
    let of = |left: f64, all: f64| format!("{} / {}", grouped(left), grouped(all));
    let rows = run.result.iter().flat_map(|result| &result.layers).map(|layer| {
        let shape: Vec<String> = layer.shape.iter().map(usize::to_string).collect();
        vec![
            layer.name.clone(),
            shape.join("×"),
            of(layer.active as f64, layer.weights as f64),
            fixed(density(layer), 4),
            format!("{} / {}", layer.channels_active, layer.channels),
            of(layer.macs_active as f64, layer.macs as f64),
        ]
    });
    Table {
        title: format!("Layers of {name}"),
        note: "Kept of all: weights, input channels, multiply-accumulates an image.".into(),
        header: cells(&["layer", "shape", "weights", "density", "channels", "MACs"]),
        rows: rows.collect(),
        folded: true,
        ..Table::default()
    }
}
