//! The tables of runs: accuracy, speed, layers.

use super::load::Run;
use super::table::Table;
use crate::infer::Algorithm;

/// Accuracy and density, one row a run.
pub(super) fn accuracy(runs: &[Run]) -> Table {
    let percent = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.2}"));
    let rows = runs.iter().filter_map(|run| {
        let result = run.result.as_ref()?;
        Some(vec![
            result.name.clone(),
            result.arch.clone(),
            percent(result.accuracy.clean),
            percent(result.accuracy.fgsm),
            percent(result.accuracy.pgd),
            format!("{:.4}", result.density),
            result.active.to_string(),
            result.nonzero.to_string(),
            format!("{:.1}", result.seconds),
        ])
    });
    Table {
        title: "Accuracy and density".into(),
        note: "Accuracy in percent of all test images; density = active / prunable weights; training time on a clock.",
        header: cells(&[
            "run", "network", "clean %", "FGSM %", "PGD %", "density", "active", "nonzero",
            "train s",
        ]),
        rows: rows.collect(),
    }
}

/// Measured speed of the four executions.
pub(super) fn speed(run: &Run) -> Table {
    let rows = run.bench.iter().flat_map(|bench| &bench.rows).map(|row| {
        vec![
            row.execution.name().to_owned(),
            row.batch.to_string(),
            format!("{:.4}", row.median_ms),
            format!("{:.0}", row.images_per_second),
            format!("{:.2}×", row.speedup_vs_dense),
            row.macs.to_string(),
            format!("{:.2}", row.build_ms),
            format!("{:.1e}", row.max_relative_error),
        ]
    });
    let plans = run.bench.iter().flat_map(|bench| &bench.plans).map(|plan| {
        let sparse = plan.layers.iter().filter(|layer| layer.algorithm == Algorithm::Sparse);
        let build = plan.build.fuse_ms + plan.build.measure_ms + plan.build.pack_ms;
        vec![
            format!("fastest: compact, {} of {} layers sparse", sparse.count(), plan.layers.len()),
            plan.batch.to_string(),
            format!("{:.4}", plan.median_ms),
            format!("{:.0}", plan.batch as f64 / plan.median_ms * 1e3),
            format!("{:.2}×", plan.speedup_vs_dense),
            "–".into(),
            format!("{build:.2}"),
            format!("{:.1e}", plan.max_relative_error),
        ]
    });
    let rows = rows.chain(plans);
    let device = run
        .bench
        .as_ref()
        .map(|bench| format!(" ({}, {}, {} threads)", bench.device, bench.mode, bench.threads));
    Table {
        title: format!("Measured speed: {}{}", run.name(), device.unwrap_or_default()),
        note: "Median time of a call in this run; speed-up over the dense execution of the same weights; error of the logits against float64.",
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
        rows: rows.collect(),
    }
}

/// The four kinds of speed-up.
pub(super) fn figures(run: &Run) -> Table {
    let rows = run.bench.iter().flat_map(|bench| &bench.figures).map(|figures| {
        vec![
            figures.batch.to_string(),
            format!("{:.2}×", figures.projected),
            format!("{:.2}×", figures.mac_ratio),
            format!("{:.2}×", figures.measured_compact),
            format!("{:.2}×", figures.measured_sparse),
        ]
    });
    Table {
        title: format!("Four kinds of speed-up: {}", run.name()),
        note: "Projected from per-layer dense times and dead channels; counted in MACs; measured on a clock. They are different things.",
        header: cells(&["batch", "projected", "counted", "measured compact", "measured sparse"]),
        rows: rows.collect(),
    }
}

/// What is left of each layer.
pub(super) fn layers(run: &Run) -> Table {
    let rows = run.result.iter().flat_map(|result| &result.layers).map(|layer| {
        vec![
            layer.name.clone(),
            format!("{:?}", layer.shape),
            format!("{} / {}", layer.active, layer.weights),
            format!("{:.4}", layer.active as f64 / layer.weights.max(1) as f64),
            format!("{} / {}", layer.channels_active, layer.channels),
            format!("{} / {}", layer.macs_active, layer.macs),
        ]
    });
    Table {
        title: format!("Layers: {}", run.name()),
        note: "Kept of all: weights, input channels, multiply-accumulates an image.",
        header: cells(&["layer", "shape", "weights", "density", "channels", "MACs"]),
        rows: rows.collect(),
    }
}

fn cells(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}
