//! `rewire demo`: the main job at small scale, on the embedded images.

use super::{Context, Outcome, train};
use crate::bench::{Bench, BenchResult, Execution};
use crate::io::{self, Hints};
use crate::report::{self, Report, Run};
use crate::run::{Accuracy, Recipe, RunResult, Session};
use crate::{Device, Error, Seed, file};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Trains a dense, an irregularly and a channel-pruned network, attacks them and measures their speed
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of the runs and the report; runs that are in it are replaced
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    out: PathBuf,
}

/// The networks, each an embedded recipe `demo-NAME`.
const NETWORKS: [&str; 3] = ["dense", "irregular", "channel"];

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
        for (index, name) in NETWORKS.into_iter().enumerate() {
            eprintln!("{}/{}: {name}", index + 1, NETWORKS.len());
            let dir = self.out.join(name);
            let (result, bench) = network(name, &dir, &device, context)?;
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
        context.print(&table(&printed), &printed)?;
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

/// One line a network: accuracy in percent, latency in milliseconds.
fn table(printed: &Printed) -> String {
    let mut text =
        format!("{:<10} {:>7} {:>7} {:>6} {:>6}", "network", "density", "clean", "FGSM", "PGD");
    let columns =
        BATCHES.iter().flat_map(|batch| Execution::ALL.map(|execution| (*batch, execution.name())));
    let columns: Vec<(usize, &str)> = columns.collect();
    for (batch, execution) in &columns {
        _ = write!(text, " {:>10}", format!("{execution}@{batch}"));
    }
    text += &format!(" {:>8}\n", "error");
    let percent = |value: Option<f64>| value.unwrap_or(f64::NAN);
    for row in &printed.runs {
        let Accuracy { clean, fgsm, pgd } = row.accuracy;
        _ = write!(
            text,
            "{:<10} {:>7.4} {:>7.2} {:>6.2} {:>6.2}",
            row.name,
            row.density,
            percent(clean),
            percent(fgsm),
            percent(pgd)
        );
        for (batch, execution) in &columns {
            _ = write!(text, " {:>10.3}", row.latency_ms[execution][batch]);
        }
        _ = writeln!(text, " {:>8.1e}", row.max_relative_error);
    }
    _ = write!(
        text,
        "\naccuracy in % of 1,000 test images, PGD with 7 steps, eps 8/255; execution@batch: median ms a call, measured here;\n\
         error: logits against float64. {:.0} s in all. Report: {}",
        printed.seconds,
        printed.report.display()
    );
    text
}
