//! Accuracy against latency: a point for each network and each way to execute it.

use super::chart::{Axis, Chart, Kind, Points, Series, Switch, View};
use super::input::Report;
use super::measures::measures;
use super::networks::Networks;
use super::section::{Part, Section};
use super::speed::{WAYS, timed};
use super::table::{Table, cells};
use super::text::{fixed, fixed_or_dash};
use crate::Result;

/// A point of the chart.
struct Point {
    network: usize,
    way: (&'static str, &'static str),
    batch: usize,
    ms: f64,
    /// By the label of what was measured.
    accuracies: Vec<(String, f64)>,
}

/// The section.
pub fn section(report: &Report, networks: &Networks) -> Result<Option<Section>> {
    let mut points = Vec::new();
    for (network, bench) in networks.speeds(report) {
        let accuracies: Vec<_> = measures(report, networks, network)
            .into_iter()
            .map(|measure| (measure.label(), measure.accuracy))
            .collect();
        for timed in timed(bench) {
            let Some(way) = WAYS.into_iter().find(|(way, _)| *way == timed.way) else { continue };
            let (batch, ms, accuracies) = (timed.batch, timed.ms, accuracies.clone());
            points.push(Point { network, way, batch, ms, accuracies });
        }
    }
    points.retain(|point| !point.accuracies.is_empty());
    let mut batches: Vec<usize> = points.iter().map(|point| point.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    let mut labels: Vec<&String> =
        points.iter().flat_map(|point| &point.accuracies).map(|(label, _)| label).collect();
    let mut seen = std::collections::BTreeSet::new();
    labels.retain(|label| seen.insert(*label));
    let mut views = Vec::new();
    for &batch in &batches {
        for label in &labels {
            views.push(view(&points, networks, batch, label));
        }
    }
    let switches = vec![
        Switch { label: "batch".into(), options: batches.iter().map(usize::to_string).collect() },
        Switch {
            label: "accuracy".into(),
            options: labels.iter().map(|&label| label.clone()).collect(),
        },
    ];
    let note = "The best network stands at the top left. Colour: the network. Shape: how the network was executed. Latency: median time of a call.";
    let chart =
        Chart::switched(Kind::Scatter, "Accuracy against latency".into(), note, switches, views);
    let table = table(&points, &labels, networks);
    let parts = chart.map(Part::Chart).into_iter().chain([Part::Table(table)]);
    Ok(Section::new("tradeoff", "Accuracy against latency", parts.collect()))
}

fn view(points: &[Point], networks: &Networks, batch: usize, label: &String) -> View {
    let here = || points.iter().filter(|point| point.batch == batch);
    let series = here().filter_map(|point| {
        let (_, accuracy) = point.accuracies.iter().find(|(other, _)| other == label)?;
        let (way, shape) = point.way;
        let name = format!("{}, {way}", networks.name(point.network));
        let points = Points::new(std::iter::once((point.ms, *accuracy)));
        let curve = Series::curve(name, Some(point.network), points);
        Some(Series { shape: Some(shape), way: Some(way), ..curve })
    });
    let range = |pick: fn(f64, f64) -> f64| here().map(|point| point.ms).reduce(pick);
    let wide =
        range(f64::max).zip(range(f64::min)).is_some_and(|(most, least)| most > 12.0 * least);
    View {
        x: Axis { log: wide, ..Axis::new(format!("ms a call at batch {batch}")) },
        y: Axis::new(format!("{label}, %")),
        series: series.collect(),
    }
}

/// The fastest way of each network beside its accuracies.
fn table(points: &[Point], labels: &[&String], networks: &Networks) -> Table {
    let mut fastest: Vec<&Point> = Vec::new();
    for point in points {
        let same =
            |other: &&mut &Point| (other.network, other.batch) == (point.network, point.batch);
        match fastest.iter_mut().find(same) {
            Some(other) if point.ms < other.ms => *other = point,
            Some(_) => {}
            None => fastest.push(point),
        }
    }
    let row = |point: &&Point| {
        let (way, _) = point.way;
        let name = networks.name(point.network).to_owned();
        let mut cells = vec![name, point.batch.to_string(), way.to_owned(), fixed(point.ms, 4)];
        cells.extend(labels.iter().map(|label| {
            let found = point.accuracies.iter().find(|(other, _)| other == *label);
            fixed_or_dash(found.map(|(_, accuracy)| *accuracy), 2)
        }));
        cells
    };
    let mut header = cells(&["network", "batch", "execution", "ms"]);
    header.extend(labels.iter().map(|label| format!("{label} %")));
    Table {
        title: "The fastest execution of each network".into(),
        note: "Median time of a call in ms; accuracy in percent of all images.".into(),
        header,
        rows: fastest.iter().map(row).collect(),
        networks: fastest.iter().map(|point| Some(point.network)).collect(),
        ..Table::default()
    }
}
