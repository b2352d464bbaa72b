//! `rewire demo`: the main job at small scale, on the embedded images.

use super::{Context, Outcome, note, train};
use crate::bench::{Bench, BenchResult, Execution};
use crate::io::{self, Hints};
use crate::report::{self, Report, Run};
use crate::run::{Accuracy, Recipe, RunResult, Session};
use crate::{Device, Error, ErrorKind, Seed, file};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Trains a dense network and two pruned ones, attacks them and measures their speed: minutes on a CPU
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of the three runs and of report.html; runs that it holds are replaced
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    out: PathBuf,
}

/// The networks, each an embedded recipe `demo-NAME`, with what becomes of their weights.
const NETWORKS: [(&str, &str); 3] = [
    ("dense", "keeps every weight"),
    ("irregular", "keeps 10 % of the convolutions' weights, each chosen on its own (method DNR)"),
    ("channel", "keeps 50 % of the convolutions' weights, in whole input channels (method DNR)"),
];

/// Batch sizes whose latency is measured.
const BATCHES: [usize; 2] = [1, 32];

/// `result.json` of the demo.
#[derive(Serialize)]
struct Printed {
    runs: Vec<Row>,
    seconds: f64,
    report: PathBuf,
}

/// One network.
#[derive(Serialize)]
struct Row {
    name: String,
    density: f64,
    accuracy: Accuracy,
    /// By execution, then by batch size.
    latency_ms: BTreeMap<&'static str, BTreeMap<usize, f64>>,
    max_relative_error: f64,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let (start, device) = (Instant::now(), context.device()?);
        let (mut rows, mut runs, mut agrees) = (Vec::new(), Vec::new(), true);
        for (index, (name, what)) in NETWORKS.into_iter().enumerate() {
            note(&format!("network {} of {}: {name}, {what}", index + 1, NETWORKS.len()));
            let dir = self.out.join(name);
            let (result, bench) = match network(name, &dir, &device, context) {
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted(_)) => {
                    context.interrupted(&format!("{error}; `rewire demo` starts again"))?;
                    return Ok(Outcome::Interrupted);
                }
                made => made?,
            };
            agrees &= bench.agrees();
            rows.push(Row::new(result, &bench));
            runs.push(Run::load(&dir)?);
        }
        let path = self.out.join("report.html");
        file::write_bytes(
            &path,
            report::render(&Report { runs, ..Report::default() })?.html.as_bytes(),
        )?;
        let seconds = start.elapsed().as_secs_f64();
        let printed = Printed { runs: rows, seconds, report: path };
        let json = serde_json::to_vec_pretty(&printed)?;
        file::write_bytes(&self.out.join("result.json"), &json)?;
        context.print(&text(&printed), &printed)?;
        Ok(if agrees { Outcome::Done } else { Outcome::Failed })
    }
}

/// Trains one network into `dir` and measures its best checkpoint.
fn network(
    name: &str,
    dir: &Path,
    device: &Device,
    context: &Context,
) -> crate::Result<(RunResult, BenchResult)> {
    let mut recipe = Recipe::load(&format!("demo-{name}"), &[])?;
    recipe.mode = context.mode.name().into();
    recipe.seed = context.seed.unwrap_or(Seed(recipe.seed)).0;
    let seed = Seed(recipe.seed);
    let result = train::carry_on(Session::start(dir, recipe, true, device)?)?;
    let best = dir.join("checkpoints").join("best.safetensors");
    let model = io::load_model(&best, &Hints::default(), device)?;
    let bench = Bench {
        batches: BATCHES.to_vec(),
        mode: context.mode,
        budget: Duration::from_secs(2),
        remeasure: false,
        seed,
    };
    let bench = bench.run(&model, &mut |_| {})?;
    let path = dir.join("bench.json");
    let json =
        serde_json::to_vec_pretty(&bench).map_err(|error| Error::file(&path, error.to_string()))?;
    file::write_bytes(&path, &json)?;
    Ok((result, bench))
}

impl Row {
    fn new(result: RunResult, bench: &BenchResult) -> Self {
        let mut latency_ms: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for row in &bench.rows {
            let times = latency_ms.entry(row.execution.name()).or_default();
            times.insert(row.batch, row.median_ms);
        }
        Self {
            name: result.name.trim_start_matches("demo-").to_owned(),
            density: result.density,
            accuracy: result.accuracy,
            latency_ms,
            max_relative_error: bench.max_relative_error(),
        }
    }
}

/// Two tables with a line a network, what their columns mean, and where the report is.
fn text(printed: &Printed) -> String {
    let runs = &printed.runs;
    let mut text = String::from("Accuracy on the 1,000 test images, in percent\n");
    // Writing to a String cannot fail.
    _ = writeln!(
        text,
        "  {:<10} {:>12} {:>10} {:>11} {:>10}",
        "network", "weights kept", "no attack", "under FGSM", "under PGD"
    );
    for Row { name, density, accuracy, .. } in runs {
        let [clean, fgsm, pgd] = [accuracy.clean, accuracy.fgsm, accuracy.pgd]
            .map(|percent| percent.map_or("-".into(), |percent| format!("{percent:.2}")));
        let kept = format!("{:.2} %", 100.0 * density);
        _ = writeln!(text, "  {name:<10} {kept:>12} {clean:>10} {fgsm:>11} {pgd:>10}");
    }
    for batch in BATCHES {
        let images = if batch == 1 { "one image".to_owned() } else { format!("{batch} images") };
        _ = write!(
            text,
            "\nMilliseconds for {images} (median), measured here\n  {:<10}",
            "network"
        );
        Execution::ALL.iter().for_each(|e| _ = write!(text, " {:>10}", e.name()));
        for row in runs {
            _ = write!(text, "\n  {:<10}", row.name);
            for execution in Execution::ALL {
                _ = write!(text, " {:>10.3}", row.latency_ms[execution.name()][&batch]);
            }
        }
        text.push('\n');
    }
    text += "\nThe networks are one architecture, trained alike against PGD:\n";
    for (name, what) in NETWORKS {
        _ = writeln!(text, "  {name:<10} {what}");
    }
    text += "The attacks may change every pixel by up to 8/255:\n  \
             FGSM       one step along the sign of the gradient\n  \
             PGD        seven smaller steps from a random start\n\
             The executions of the same weights:\n";
    for execution in Execution::ALL {
        _ = writeln!(text, "  {:<10} {}", execution.name(), meaning(execution));
    }
    let error = runs.iter().map(|row| row.max_relative_error).fold(0.0, f64::max);
    _ = write!(
        text,
        "The logits of every execution agree with float64 to {error:.1e} (relative).\n\
         {:.0} s in all. Charts and sample images: open {} in a browser.",
        printed.seconds,
        printed.report.display()
    );
    text
}

/// An execution in one line.
fn meaning(execution: Execution) -> &'static str {
    match execution {
        Execution::Dense => "multiplies every weight, pruned ones (zeros) too",
        Execution::Masked => {
            "as dense, and multiplies the weights by their mask in every call, as pruning tools do"
        }
        Execution::Compact => {
            "as dense, after channels that are zero were removed from the network"
        }
        Execution::Sparse => "multiplies only the weights that are kept",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_names_every_column_and_says_what_it_means() {
        let times = |ms: f64| BTreeMap::from(BATCHES.map(|batch| (batch, ms * batch as f64)));
        let row = |name: &str| Row {
            name: name.into(),
            density: 0.1,
            accuracy: Accuracy { clean: Some(81.25), fgsm: Some(55.5), pgd: None },
            latency_ms: Execution::ALL.iter().map(|e| (e.name(), times(0.125))).collect(),
            max_relative_error: 1.5e-6,
        };
        let runs = NETWORKS.map(|(name, _)| row(name)).into();
        let report = PathBuf::from("runs/demo/report.html");
        let text = text(&Printed { runs, seconds: 151.4, report });
        let lines: Vec<&str> = text.lines().collect();
        let cells = |start: &str| -> Vec<&str> {
            let line = lines.iter().find(|line| line.starts_with(start));
            line.unwrap_or_else(|| panic!("no {start} in {text}")).split_whitespace().collect()
        };
        assert_eq!(cells("  irregular"), ["irregular", "10.00", "%", "81.25", "55.50", "-"]);
        for execution in Execution::ALL {
            assert!(cells(&format!("  {}  ", execution.name())).len() > 4, "{text}");
        }
        assert!(text.contains("  channel         4.000"), "{text}");
        assert!(text.contains("runs/demo/report.html") && text.contains("151 s"), "{text}");
        assert!(lines.iter().all(|line| line.len() <= 100), "{text}");
    }
}
