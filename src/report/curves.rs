//! Training curves, all runs in each chart.

use super::chart::{Axis, Chart, Kind, Series, drawable};
use super::input::Report;
use super::load::Run;
use super::networks::Networks;
use super::section::{Part, Section};
use super::table::{Table, cells};
use super::text::grouped;
use crate::Result;
use crate::attack::{ATTACKS, SEQUENCES};

/// Rows of the table of epochs, for each run.
const MOST_ROWS: usize = 40;

/// The section.
pub fn section(report: &Report, networks: &Networks) -> Result<Option<Section>> {
    let mut loss = curves(report, networks, "Training loss of each step", "step", "loss", "loss");
    loss.iter_mut().for_each(|chart| chart.smooth = true);
    let mut charts = vec![
        loss,
        curves(report, networks, "Clean test accuracy", "epoch", "test_accuracy", "%"),
        curves(report, networks, "Clean validation accuracy", "epoch", "validation_accuracy", "%"),
    ];
    charts.extend(robust(report).into_iter().map(|column| {
        let attack = column.trim_end_matches("_accuracy");
        curves(report, networks, &format!("Accuracy under {attack}"), "epoch", &column, "%")
    }));
    let density = "Density of the prunable weights";
    let mut density = curves(report, networks, density, "epoch", "density", "active / prunable");
    for view in density.iter_mut().flat_map(|chart| &mut chart.views) {
        (view.y.min, view.y.max) = (Some(0.0), Some(1.0));
    }
    charts.push(density);
    let tables = networks.runs.iter().zip(&report.runs);
    let tables = tables.map(|(&network, run)| Part::Table(epochs(networks.name(network), run)));
    let charts = charts.into_iter().flatten().map(Part::Chart);
    Ok(Section::new("training", "Training", charts.chain(tables).collect()))
}

/// Columns of accuracies under attacks.
fn robust(report: &Report) -> Vec<String> {
    let known = ["test_accuracy", "train_accuracy", "validation_accuracy"];
    let attack = |name: &str| {
        ATTACKS.iter().any(|entry| entry.name == name)
            || SEQUENCES.iter().any(|entry| entry.name == name)
    };
    let columns = report.runs.iter().flat_map(|run| run.epochs.columns());
    let mut found: Vec<String> = Vec::new();
    for column in columns {
        let robust = column.ends_with("_accuracy") && !known.contains(&column.as_str());
        if (robust || attack(column)) && !found.contains(column) {
            found.push(column.clone());
        }
    }
    found
}

fn curves(
    report: &Report,
    networks: &Networks,
    title: &str,
    x: &str,
    column: &str,
    unit: &str,
) -> Option<Chart> {
    let series: Vec<Series> = networks
        .runs
        .iter()
        .zip(&report.runs)
        .map(|(&network, run)| {
            let file = if x == "step" { &run.steps } else { &run.epochs };
            let name = networks.name(network).to_owned();
            Series::curve(name, Some(network), file.points(x, column))
        })
        .collect();
    let axis = Axis::whole(x, series.iter());
    Chart::new(Kind::Line, title.to_owned(), "", axis, Axis::new(unit), series)
}

/// The epochs of a run as a table, every so many of a long run.
fn epochs(name: &str, run: &Run) -> Table {
    let columns: Vec<&String> =
        run.epochs.columns().iter().filter(|column| *column != "step").collect();
    let values: Vec<Vec<Option<f64>>> =
        columns.iter().map(|column| run.epochs.column(column)).collect();
    let all = values.first().map_or(0, Vec::len);
    let every = all.div_ceil(MOST_ROWS).max(1);
    let row = |at: usize| values.iter().map(|column| number(column[at])).collect();
    let rows = (0..all).filter(|at| at % every == every - 1 || at + 1 == all).map(row);
    let note = match every {
        1 => String::new(),
        _ => format!("Every {every}th of {all} epochs, and the last."),
    };
    Table {
        title: format!("Epochs of {name}"),
        note,
        header: cells(&columns.iter().map(|column| column.as_str()).collect::<Vec<_>>()),
        rows: rows.collect(),
        folded: true,
        ..Table::default()
    }
}

/// At most five significant digits behind the point.
fn number(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(value) if !drawable(value) || value.abs() >= 1e9 => format!("{value:e}"),
        Some(value) if value == value.trunc() => grouped(value),
        Some(value) => format!("{value:.5}").trim_end_matches('0').to_owned(),
    }
}
