//! Measured speed: the ways that a network was executed in, on which machine, and the tables and charts of it.

use super::chart::{Axis, Chart, Kind, Series, Switch, View};
use super::input::Report;
use super::networks::Networks;
use super::section::{Part, Section};
use super::table::{Table, cells};
use super::text::fixed;
use super::text::grouped;
use crate::Result;
use crate::bench::{BenchResult, Execution};
use crate::infer::Algorithm;

/// What the plan of the fastest algorithms is called beside the four executions.
pub const PLAN: &str = "fastest plan";

/// The ways in the order of legends, and the library's name of each one's marker.
pub const WAYS: [(&str, &str); 5] = [
    ("dense", "circle"),
    ("masked", "crossRot"),
    ("compact", "rect"),
    ("sparse", "triangle"),
    (PLAN, "rectRot"),
];

/// One way to execute a network, on a clock.
#[derive(Debug, Clone, Copy)]
pub struct Timed {
    /// A name of [`WAYS`].
    pub way: &'static str,
    /// Images a call.
    pub batch: usize,
    /// Median time of a call.
    pub ms: f64,
}

/// Every way and batch size that was measured.
pub fn timed(bench: &BenchResult) -> Vec<Timed> {
    let rows = bench.rows.iter().map(|row| (row.execution.name(), row.batch, row.median_ms));
    let plans = bench.plans.iter().map(|plan| (PLAN, plan.batch, plan.median_ms));
    let all = rows.chain(plans).map(|(way, batch, ms)| Timed { way, batch, ms });
    all.filter(|timed| timed.ms.is_finite() && timed.ms > 0.0).collect()
}

/// The fastest way at a batch size.
pub fn fastest(bench: &BenchResult, batch: usize) -> Option<Timed> {
    let all = timed(bench).into_iter().filter(|timed| timed.batch == batch);
    all.min_by(|a, b| a.ms.total_cmp(&b.ms))
}

/// Dense execution at a batch size.
pub fn dense(bench: &BenchResult, batch: usize) -> Option<Timed> {
    let name = Execution::Dense.name();
    timed(bench).into_iter().find(|timed| timed.batch == batch && timed.way == name)
}

/// The batch sizes that were measured, from the smallest.
pub fn batches<'a>(benches: impl Iterator<Item = &'a BenchResult>) -> Vec<usize> {
    let mut all: Vec<usize> = benches.flat_map(timed).map(|timed| timed.batch).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What ran the calls: processor or device, threads, arithmetic.
pub fn machine(bench: &BenchResult) -> String {
    let BenchResult { device, mode, threads, cpu, .. } = bench;
    match cpu {
        Some(cpu) if device == "cpu" => format!("{cpu}, {threads} threads, {mode}"),
        None if device == "cpu" => {
            format!("a CPU whose name was not recorded, {threads} threads, {mode}")
        }
        _ => format!("{device}, {mode}"),
    }
}

/// Whether times of two networks may be compared: one architecture, one machine, one arithmetic.
pub fn comparable(a: &BenchResult, b: &BenchResult) -> bool {
    let what = |bench: &BenchResult| (bench.arch.clone(), machine(bench));
    what(a) == what(b)
}

/// The section.
pub fn section(report: &Report, networks: &Networks) -> Result<Option<Section>> {
    let mut parts: Vec<Part> = throughput(report, networks).map(Part::Chart).into_iter().collect();
    for (network, bench) in networks.speeds(report) {
        let name = networks.name(network);
        parts.extend([executions(name, bench), figures(name, bench)].map(Part::Table));
    }
    Ok(Section::new("speed", "Speed", parts))
}

fn throughput(report: &Report, networks: &Networks) -> Option<Chart> {
    let batches = batches(networks.speeds(report).map(|(_, bench)| bench));
    let view = |&batch: &usize| {
        let series = networks.speeds(report).map(|(network, bench)| {
            let all = timed(bench);
            let value = |(way, _): &(&str, &str)| {
                let found = all.iter().find(|timed| timed.batch == batch && timed.way == *way)?;
                Some(batch as f64 / found.ms * 1e3)
            };
            let values = WAYS.iter().map(value).collect();
            Series::bars(networks.name(network).to_owned(), Some(network), values)
        });
        let categories = WAYS.map(|(way, _)| way.to_owned()).to_vec();
        View {
            x: Axis { categories, ..Axis::default() },
            y: Axis { min: Some(0.0), ..Axis::new("images/s") },
            series: series.collect(),
        }
    };
    let options = batches.iter().map(usize::to_string).collect();
    Chart::switched(
        Kind::Columns,
        "Images a second".into(),
        "Batch size over the median time of a call, as measured.",
        vec![Switch { label: "batch".into(), options }],
        batches.iter().map(view).collect(),
    )
}

/// The four executions and the plan.
fn executions(name: &str, bench: &BenchResult) -> Table {
    let rows = bench.rows.iter().map(|row| {
        vec![
            row.execution.name().to_owned(),
            row.batch.to_string(),
            fixed(row.median_ms, 4),
            fixed(row.images_per_second, 0),
            fixed(row.speedup_vs_dense, 2) + "×",
            grouped(row.macs as f64),
            fixed(row.build_ms, 2),
            format!("{:.1e}", row.max_relative_error),
        ]
    });
    let plans = bench.plans.iter().map(|plan| {
        let sparse = plan.layers.iter().filter(|layer| layer.algorithm == Algorithm::Sparse);
        let build = plan.build.fuse_ms + plan.build.measure_ms + plan.build.pack_ms;
        vec![
            format!("{PLAN}: {} of {} layers sparse", sparse.count(), plan.layers.len()),
            plan.batch.to_string(),
            fixed(plan.median_ms, 4),
            fixed(plan.batch as f64 / plan.median_ms * 1e3, 0),
            fixed(plan.speedup_vs_dense, 2) + "×",
            "–".into(),
            fixed(build, 2),
            format!("{:.1e}", plan.max_relative_error),
        ]
    });
    Table {
        title: format!("Executions of {name}"),
        note: format!(
            "Median time of a call on {}. Speed-up: time of the dense execution of the same weights over this time. Error: of the logits against float64.",
            machine(bench)
        ),
        header: cells(&[
            "execution",
            "batch",
            "ms",
            "images/s",
            "speed-up",
            "MACs",
            "build ms",
            "error",
        ]),
        rows: rows.chain(plans).collect(),
        ..Table::default()
    }
}

/// The four kinds of speed-up.
fn figures(name: &str, bench: &BenchResult) -> Table {
    let rows = bench.figures.iter().map(|figures| {
        let kinds = [
            figures.projected,
            figures.mac_ratio,
            figures.measured_compact,
            figures.measured_sparse,
        ];
        let kinds = kinds.map(|figure| fixed(figure, 2) + "×");
        std::iter::once(figures.batch.to_string()).chain(kinds).collect()
    });
    Table {
        title: format!("Four kinds of speed-up of {name}"),
        note: "Projected from the layers' dense times and dead channels; counted in multiply-accumulates; measured on a clock, without dead channels (compact) and with kept weights only (sparse). Each kind is a figure of its own.".into(),
        header: cells(&["batch", "projected", "counted", "measured compact", "measured sparse"]),
        rows: rows.collect(),
        ..Table::default()
    }
}
