//! The runs: accuracy, density, and what ran where.

use super::chart::{Axis, Chart, Kind, Series};
use super::input::Report;
use super::load::Run;
use super::networks::Networks;
use super::section::{Part, Section};
use super::table::{Table, cells};
use super::text::eps_text;
use super::text::{fixed, fixed_or_dash};
use crate::Result;
use crate::run::{Evaluation, RunResult};

/// The section.
pub fn section(report: &Report, networks: &Networks) -> Result<Option<Section>> {
    let parts = accuracies(report, networks).map(Part::Chart).into_iter();
    let tables = [table(report, networks), origin(report, networks)].map(Part::Table);
    Ok(Section::new("runs", "Accuracy and density", parts.chain(tables).collect()))
}

fn finished<'a>(
    report: &'a Report,
    networks: &'a Networks,
) -> impl Iterator<Item = (usize, &'a Run, &'a RunResult)> {
    let runs = networks.runs.iter().zip(&report.runs);
    runs.filter_map(|(&network, run)| Some((network, run, run.result.as_ref()?)))
}

/// `pgd, eps 8/255, 7 steps`: what an evaluation was.
fn attack(one: &Evaluation) -> String {
    let Evaluation { attack, eps, steps, restarts, .. } = one;
    let mut text = format!("{attack}, eps {}", eps_text(*eps));
    if *steps > 1 {
        text += &format!(", {steps} steps");
    }
    if *restarts > 1 {
        text += &format!(", {restarts} restarts");
    }
    text
}

fn accuracies(report: &Report, networks: &Networks) -> Option<Chart> {
    let mut categories = vec!["clean".to_owned()];
    for (_, _, result) in finished(report, networks) {
        for name in result.evaluations.iter().map(attack) {
            if !categories.contains(&name) {
                categories.push(name);
            }
        }
    }
    let series = finished(report, networks).map(|(network, _, result)| {
        let under = |name: &String| {
            let found = result.evaluations.iter().find(|one| attack(one) == *name);
            found.map(|one| one.accuracy)
        };
        let attacks = categories[1..].iter().map(under);
        let values = std::iter::once(result.accuracy.clean).chain(attacks).collect();
        Series::bars(networks.name(network).to_owned(), Some(network), values)
    });
    let series = series.collect();
    Chart::new(
        Kind::Columns,
        "Test accuracy".into(),
        "Percent of all test images that are classified correctly, without and with an attack.",
        Axis { categories, ..Axis::default() },
        Axis::percent("%"),
        series,
    )
}

/// Accuracy and density, one row a run: also `report.csv`.
pub fn table(report: &Report, networks: &Networks) -> Table {
    let row = |(network, _, result): (usize, &Run, &RunResult)| {
        vec![
            networks.name(network).to_owned(),
            fixed_or_dash(result.accuracy.clean, 2),
            fixed_or_dash(result.accuracy.fgsm, 2),
            fixed_or_dash(result.accuracy.pgd, 2),
            fixed(result.density, 4),
            result.active.to_string(),
            result.nonzero.to_string(),
            fixed(result.seconds, 1),
            result.arch.clone(),
        ]
    };
    let others: Vec<String> = {
        let all = finished(report, networks).flat_map(|(_, _, result)| &result.evaluations);
        let mut names: Vec<String> =
            all.filter(|one| one.attack != "fgsm" && one.attack != "pgd").map(attack).collect();
        names.sort();
        names.dedup();
        names
    };
    let whole = |entry: (usize, &Run, &RunResult)| {
        let more = others.iter().map(|name| {
            let found = entry.2.evaluations.iter().find(|one| attack(one) == *name);
            fixed_or_dash(found.map(|one| one.accuracy), 2)
        });
        let mut cells = row(entry);
        // The attacks behind clean, FGSM and PGD.
        cells.splice(4..4, more);
        cells
    };
    let mut header = cells(&[
        "run", "clean %", "FGSM %", "PGD %", "density", "active", "nonzero", "train s", "network",
    ]);
    header.splice(4..4, others.iter().map(|name| format!("{name} %")));
    Table {
        title: "Accuracy and density of the runs".into(),
        note: "Accuracy in percent of all test images. Density: active over prunable weights. Active: weights that are kept. Nonzero: prunable weights that are not 0. Training time in seconds on a clock.".into(),
        header,
        rows: finished(report, networks).map(whole).collect(),
        networks: finished(report, networks).map(|(network, ..)| Some(network)).collect(),
        ..Table::default()
    }
}

/// What ran where.
fn origin(report: &Report, networks: &Networks) -> Table {
    let row = |(network, _, result): (usize, &Run, &RunResult)| {
        vec![
            networks.name(network).to_owned(),
            result.data.clone(),
            result.device.clone(),
            result.mode.clone(),
            result.seed.to_string(),
            result.epochs.to_string(),
            result.epoch.to_string(),
            result.selected_by.clone(),
        ]
    };
    Table {
        title: "How the runs were made".into(),
        note: "Measured epoch: the epoch of the checkpoint that is measured, the best by clean accuracy. Chosen by: the images that \
               this accuracy is of.".into(),
        header: cells(&["run", "data", "device", "mode", "seed", "epochs", "measured epoch", "chosen by"]),
        rows: finished(report, networks).map(row).collect(),
        networks: finished(report, networks).map(|(network, ..)| Some(network)).collect(),
        ..Table::default()
    }
}
