//! `rewire bench`: the four executions of one network on a clock.

use super::inputs::OptionalModelArgs;
use super::{Context, Outcome};
use crate::bench::{Bench, BenchResult, TrainStep};
use crate::infer::Algorithm;
use crate::nn::Model;
use crate::prune::{Granularity, PruneSettings, Pruner};
use crate::{Error, Seed};
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

/// Real latency and throughput of dense, masked, compacted and sparse execution of the same weights
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: OptionalModelArgs,
    /// Images a call, comma-separated
    #[arg(long, value_name = "N[,N…]", value_delimiter = ',', default_value = "1,32")]
    batch: Vec<usize>,
    /// First prunes by magnitude to this density, every convolution alike
    #[arg(long, value_name = "SHARE", requires = "granularity")]
    density: Option<f64>,
    /// What is pruned: irregular, kernel, filter or channel
    #[arg(long, value_name = "NAME", requires = "density")]
    granularity: Option<String>,
    /// Seconds that the calls of a batch size may take
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// Measures a training step instead: forward, backward and SGD; pruned weights stay pruned
    #[arg(long)]
    train_step: bool,
    /// Steps of a PGD attack in front of each training step, which then trains on its images; over kept weights alone where
    /// --density prunes
    #[arg(long, value_name = "K", requires = "train_step")]
    attack_steps: Option<usize>,
}

#[derive(Serialize)]
struct Steps {
    arch: String,
    device: String,
    mode: String,
    threads: usize,
    /// Of the attack in each step; 0 without one.
    attack_steps: usize,
    /// Kept share of the prunable weights.
    density: f64,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    batch: usize,
    median_ms: f64,
}

impl Steps {
    fn text(&self) -> String {
        let attack = match self.attack_steps {
            0 => String::new(),
            steps => format!(" with PGD-{steps}"),
        };
        let line = |Step { batch, median_ms }: &Step| {
            format!("batch {batch}: {median_ms:.2} ms a step{attack}")
        };
        self.steps.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        self.check()?;
        let seed = context.seed.unwrap_or(Seed(1));
        let file = self.model.file().filter(|_| self.density.is_none());
        let mut model = self.model.load(context)?;
        let budget = Duration::from_secs_f64(self.seconds);
        if let (Some(density), Some(granularity)) = (self.density, &self.granularity) {
            let settings = settings(density, granularity)?;
            Pruner::new(&settings, &model, seed)?.apply(&mut model)?;
        }
        if self.train_step {
            let (density, attack_steps) = (density(&model)?, self.attack_steps.unwrap_or(0));
            let (mode, masked) = (context.mode, density < 1.0);
            let step = |batch| TrainStep { batch, mode, attack_steps, masked, budget, seed };
            let mut steps = Vec::new();
            for &batch in &self.batch {
                steps.push(Step { batch, median_ms: step(batch).median_seconds(&model)? * 1e3 });
            }
            let steps = Steps {
                arch: model.arch().to_string(),
                device: model.device().to_string(),
                mode: mode.to_string(),
                threads: rayon::current_num_threads(),
                attack_steps,
                density,
                steps,
            };
            context.print(&steps.text(), &steps)?;
            return Ok(Outcome::Done);
        }
        let bench = Bench { batches: self.batch, mode: context.mode, budget, seed };
        let mut result = bench.run(&model, &mut |_| {})?;
        result.model = file;
        context.print(&table(&result), &result)?;
        Ok(if result.agrees() { Outcome::Done } else { Outcome::Failed })
    }

    fn check(&self) -> crate::Result<()> {
        if let Some(batch) = self.batch.iter().find(|batch| !(1..=65_536).contains(*batch)) {
            return Err(Error::param("--batch", batch, "from 1 to 65536"));
        }
        if !(self.seconds.is_finite() && self.seconds >= 0.0) {
            return Err(Error::param("--seconds", self.seconds, "0 or more"));
        }
        if let Some(steps) = self.attack_steps.filter(|steps| !(1..=1000).contains(steps)) {
            return Err(Error::param("--attack-steps", steps, "from 1 to 1000"));
        }
        Ok(())
    }
}

/// Kept share of the prunable weights.
fn density(model: &Model) -> crate::Result<f64> {
    let (mut kept, mut all) = (0, 0);
    for name in model.prunable() {
        let weight = model.param(&name)?;
        kept += weight.to_vec::<f32>()?.iter().filter(|&&w| w != 0.0).count();
        all += weight.len();
    }
    Ok(kept as f64 / all.max(1) as f64)
}

/// Magnitude, every convolution alike.
fn settings(density: f64, granularity: &str) -> crate::Result<PruneSettings> {
    if !(density > 0.0 && density <= 1.0) {
        return Err(Error::param("--density", density, "above 0 and at most 1"));
    }
    let known = Granularity::ALL.into_iter().find(|known| known.name() == granularity);
    let granularity = known.ok_or_else(|| {
        let names = Granularity::ALL.map(Granularity::name);
        Error::param("--granularity", granularity, format!("one of {}", names.join(", ")))
    })?;
    let (method, keys) = ("magnitude".to_owned(), toml::Table::new());
    Ok(PruneSettings { method, granularity, density, keys })
}

fn table(result: &BenchResult) -> String {
    let BenchResult { arch, device, mode, threads, density, .. } = result;
    let mut text =
        format!("{arch} on {device} ({mode}, {threads} threads), density {density:.4}\n");
    text += "execution  batch    median ms   images/s  speed-up          MACs  build ms    error\n";
    for row in &result.rows {
        _ = writeln!(
            text,
            "{:<9} {:>6} {:>12.4} {:>10.0} {:>8.2}× {:>13} {:>9.2} {:>8.1e}",
            row.execution.name(),
            row.batch,
            row.median_ms,
            row.images_per_second,
            row.speedup_vs_dense,
            row.macs,
            row.build_ms,
            row.max_relative_error
        );
    }
    for plan in &result.plans {
        let sparse = plan.layers.iter().filter(|layer| layer.algorithm == Algorithm::Sparse);
        _ = writeln!(
            text,
            "fastest   {:>6} {:>12.4} {:>10.0} {:>8.2}×   compact, {} of {} layers sparse {:>8.1e}",
            plan.batch,
            plan.median_ms,
            plan.batch as f64 / plan.median_ms * 1e3,
            plan.speedup_vs_dense,
            sparse.count(),
            plan.layers.len(),
            plan.max_relative_error
        );
    }
    text += "\nspeed-up   batch  projected    counted  measured compact  measured sparse\n";
    for figures in &result.figures {
        _ = writeln!(
            text,
            "{:>16} {:>9.2}× {:>9.2}× {:>16.2}× {:>15.2}×",
            figures.batch,
            figures.projected,
            figures.mac_ratio,
            figures.measured_compact,
            figures.measured_sparse
        );
    }
    text
}
