//! The HTML page.

use super::load::Run;
use super::peers::Peers;
use super::plot::{Series, bars, lines};
use super::table::{Table, escape};
use crate::run::{Attacked, Sample, Samples};
use crate::{Error, Result};
use base64::Engine;
use std::fmt::Write;

const STYLE: &str = "
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin:2rem 0 .2rem}
.note,figcaption{color:#555;font-size:.87rem;margin:.1rem 0 .6rem}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(30rem,1fr));gap:1rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.87rem}
th,td{padding:.22rem .7rem;text-align:right;border-bottom:1px solid #e3e3e3;white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #999}
.samples{display:flex;flex-wrap:wrap;gap:.8rem}.samples figure{margin:0;width:9.5rem}
.samples img{width:4.6rem;image-rendering:pixelated;border:1px solid #ccc}
.right{color:#00694b}.wrong{color:#b03a00}
";

/// The whole page; the first of `tables` stands before the charts.
pub fn page(
    runs: &[Run],
    attacked: &[Attacked],
    peers: &[Peers],
    tables: &[Table],
) -> Result<String> {
    let title = match runs {
        [run] => run.name(),
        [] if !attacked.is_empty() => "Accuracy under attacks".to_owned(),
        [] => "Against other frameworks".to_owned(),
        _ => format!("{} runs", runs.len()),
    };
    let title = escape(&title);
    let mut page = format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>rewire: {title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    );
    _ = writeln!(page, "<p class=note>{}</p>", escape(&origin(runs)));
    let mut tables = tables.iter();
    page += &tables.next().map(|table| table.html()).unwrap_or_default();
    page += &curves(runs);
    for attacked in attacked {
        for chart in super::attacked::charts(attacked) {
            _ = writeln!(page, "<div>{chart}</div>");
        }
        for line in &attacked.warnings {
            _ = writeln!(page, "<p class=note>{}: {}</p>", escape(&attacked.model), escape(line));
        }
    }
    for peers in peers {
        let title = "Time of the fastest peer over rewire's";
        page += &bars(title, "times", &peers.ratios()).unwrap_or_default();
    }
    for run in runs {
        page += &density(run);
    }
    for run in runs {
        if let Some(samples) = &run.samples {
            page += &gallery(run, samples)?;
        }
    }
    tables.for_each(|table| page += &table.html());
    Ok(page + "</body></html>\n")
}

/// What ran where, in one sentence a run.
fn origin(runs: &[Run]) -> String {
    let one = |run: &Run| {
        run.result.as_ref().map(|result| {
            format!(
                "{}: {} epochs on {} by {} in {}, seed {}; measured at epoch {}.",
                result.name,
                result.epochs,
                result.data,
                result.device,
                result.mode,
                result.seed,
                result.epoch
            )
        })
    };
    runs.iter().filter_map(one).collect::<Vec<_>>().join(" ")
}

/// Training curves, all runs in one chart each, and the measured speeds.
fn curves(runs: &[Run]) -> String {
    let chart = |title: &str, y: &str, column: &str| {
        let series: Vec<Series> = runs
            .iter()
            .map(|run| Series { name: run.name(), points: run.epochs.points("epoch", column) })
            .filter(|series| !series.points.is_empty())
            .collect();
        lines(title, "epoch", y, &series)
    };
    let loss: Vec<Series> = runs
        .iter()
        .map(|run| Series { name: run.name(), points: run.steps.points("step", "loss") })
        .filter(|series| !series.points.is_empty())
        .collect();
    let charts = [
        lines("Training loss of each step", "step", "loss", &loss),
        chart("Clean test accuracy", "%", "test_accuracy"),
        chart("Density of the masks", "active / prunable", "density"),
        accuracies(runs),
        speeds(runs),
    ];
    let charts: String =
        charts.into_iter().flatten().map(|svg| format!("<div>{svg}</div>\n")).collect();
    match charts.is_empty() {
        true => String::new(),
        false => format!("<h2>Training and results</h2>\n<div class=grid>\n{charts}</div>\n"),
    }
}

fn accuracies(runs: &[Run]) -> Option<String> {
    let mut rows = Vec::new();
    for result in runs.iter().filter_map(|run| run.result.as_ref()) {
        let accuracy = &result.accuracy;
        let kinds = [("clean", accuracy.clean), ("FGSM", accuracy.fgsm), ("PGD", accuracy.pgd)];
        for (kind, value) in kinds {
            rows.extend(value.map(|value| (format!("{} {kind}", result.name), value)));
        }
    }
    bars("Test accuracy", "%", &rows)
}

fn speeds(runs: &[Run]) -> Option<String> {
    let batch =
        runs.iter().filter_map(|run| run.bench.as_ref()?.rows.last()).map(|row| row.batch).max()?;
    let mut rows = Vec::new();
    for run in runs {
        let measured = run.bench.iter().flat_map(|bench| &bench.rows);
        rows.extend(measured.filter(|row| row.batch == batch).map(|row| {
            (format!("{} {}", run.name(), row.execution.name()), row.images_per_second)
        }));
    }
    bars(&format!("Measured throughput at batch {batch}"), "images/s", &rows)
}

/// Kept share of each layer's weights.
fn density(run: &Run) -> String {
    let rows: Vec<(String, f64)> = run
        .result
        .iter()
        .filter(|result| result.active < result.prunable)
        .flat_map(|result| &result.layers)
        .map(|layer| {
            (layer.name.clone(), 100.0 * layer.active as f64 / layer.weights.max(1) as f64)
        })
        .collect();
    let name = run.name();
    bars(&format!("Weights kept by layer: {name}"), "%", &rows)
        .map(|svg| format!("<h2>Density of {}</h2>\n{svg}\n", escape(&name)))
        .unwrap_or_default()
}

/// Clean and adversarial images side by side.
fn gallery(run: &Run, samples: &Samples) -> Result<String> {
    let mut text = format!(
        "<h2>Images and their adversarial examples: {}</h2>\n<p class=note>Left clean, right under {}; below, what the network says of each.</p>\n<div class=samples>\n",
        escape(&run.name()),
        escape(&samples.attack)
    );
    let class = |index: usize| {
        let name = samples.classes.get(index).cloned().unwrap_or_else(|| index.to_string());
        escape(&name)
    };
    for sample in &samples.images {
        let says = |predicted: usize| {
            let kind = if predicted == sample.label { "right" } else { "wrong" };
            format!("<span class={kind}>{}</span>", class(predicted))
        };
        let [clean, adversarial] = images(run, samples, sample)?;
        _ = writeln!(
            text,
            "<figure><img alt=\"clean {label}\" src=\"{clean}\"><img alt=\"adversarial {label}\" src=\"{adversarial}\"><figcaption>{} → {}</figcaption></figure>",
            says(sample.predicted),
            says(sample.predicted_adversarial),
            label = class(sample.label),
        );
    }
    Ok(text + "</div>\n")
}

fn images(run: &Run, samples: &Samples, sample: &Sample) -> Result<[String; 2]> {
    let [height, width, channels] = samples.shape;
    let colour = if channels == 1 { image::ColorType::L8 } else { image::ColorType::Rgb8 };
    let uri = |pixels: &[u8]| {
        let wrong = |what: String| Error::file(run.dir.join("samples.json"), what);
        if pixels.len() != height * width * channels || !matches!(channels, 1 | 3) {
            return Err(wrong(format!(
                "an image of {} bytes, expected {height}×{width}×{channels} with 1 or 3 channels",
                pixels.len()
            )));
        }
        let mut png = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut png);
        image::ImageEncoder::write_image(
            encoder,
            pixels,
            width as u32,
            height as u32,
            colour.into(),
        )
        .map_err(|error| wrong(error.to_string()))?;
        let data = base64::engine::general_purpose::STANDARD.encode(png);
        Ok(format!("data:image/png;base64,{data}"))
    };
    Ok([uri(&sample.clean)?, uri(&sample.adversarial)?])
}
