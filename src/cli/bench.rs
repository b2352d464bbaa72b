//! `rewire bench`: the executions of one network on a clock.

use super::inputs::OptionalModelArgs;
use super::{Context, Outcome};
use crate::bench::{Bench, BenchResult, PlanRow, TrainStep};
use crate::infer::{Algorithm, PlannedLayer};
use crate::nn::Model;
use crate::prune::{Granularity, PruneSettings, Pruner};
use crate::{Error, Seed};
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

/// Measures latency and throughput of a network: dense, masked, compact and sparse execution of the same weights, and the fastest
/// mix of them
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: OptionalModelArgs,
    /// Images in a call; several numbers, separated by commas, are measured one after another
    #[arg(long, value_name = "N[,N…]", value_delimiter = ',', default_value = "1,32")]
    batch: Vec<usize>,
    /// Prunes the network first: keeps this share of the largest weights of every convolution
    #[arg(long, value_name = "SHARE", requires = "granularity")]
    density: Option<f64>,
    /// What --density prunes: irregular (single weights), kernel, filter or channel
    #[arg(long, value_name = "NAME", requires = "density")]
    granularity: Option<String>,
    /// Seconds of measuring for each batch size
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// Measures again which algorithm each layer of the fastest plan uses, and on how many threads. Without --measure the
    /// choice that was remembered is used, unless another execution turns out to be faster
    #[arg(long, conflicts_with = "train_step")]
    measure: bool,
    /// Measures a training step instead: forward, backward and SGD. Weights that are 0 stay 0
    #[arg(long)]
    train_step: bool,
    /// Attacks the images by PGD with K steps before each training step, which trains on the attacked images
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
    /// nonzero / prunable, as [`Self::nonzero_share`]: the name that older files have for it.
    density: f64,
    /// Share of the convolution weights that are not 0.
    nonzero_share: f64,
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
            let (density, attack_steps) = (nonzero_share(&model)?, self.attack_steps.unwrap_or(0));
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
                nonzero_share: density,
                steps,
            };
            context.print(&steps.text(), &steps)?;
            return Ok(Outcome::Done);
        }
        let bench = Bench {
            batches: self.batch,
            mode: context.mode,
            budget,
            remeasure: self.measure,
            seed,
        };
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
            return Err(Error::param("--seconds", self.seconds, "a number of seconds, 0 or more"));
        }
        if let Some(steps) = self.attack_steps.filter(|steps| !(1..=1000).contains(steps)) {
            return Err(Error::param("--attack-steps", steps, "from 1 to 1000"));
        }
        Ok(())
    }
}

/// Share of the convolution weights that are not 0.
fn nonzero_share(model: &Model) -> crate::Result<f64> {
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

/// What the rows of the table are.
const ROWS: &str = "
dense    multiplies every stored weight, zeros too
masked   dense, after weight × mask in every call: how pruning tools run a network while it is pruned
compact  dense, on the smaller network that `rewire shrink` makes
sparse   multiplies only the weights that are not 0
fastest  the smaller network, each layer dense or sparse: what was measured to be fastest here
error    ‖logits − exact‖ / ‖exact‖, where exact are the logits in float64
";

/// What the columns of speed-ups are.
const SPEED_UPS: &str = "
estimated  from the channels that no weight reads and the feature maps that are 0 (Dettmers & Zettlemoyer 2019)
counted    multiply-accumulates (MACs) of dense over those of sparse execution
measured   times in the table above
";

fn table(result: &BenchResult) -> String {
    let BenchResult { arch, device, mode, nonzero_share, prunable, .. } = result;
    let nonzero = result.rows.first().map_or(0, |row| row.nonzero);
    let mut text = format!("{arch} on {device} ({mode})\n");
    _ = writeln!(
        text,
        "nonzero share {nonzero_share:.4}: {nonzero} of {prunable} convolution weights are not 0\n"
    );
    text += "execution  batch  threads  ms per call   images/s  speed-up    MACs/image  build ms    error\n";
    let threads = |own: Option<usize>| own.map_or("-".to_owned(), |own| own.to_string());
    for row in &result.rows {
        _ = writeln!(
            text,
            "{:<9} {:>6} {:>8} {:>12.4} {:>10.0} {:>8.2}× {:>13} {:>9.2} {:>8.1e}",
            row.execution.name(),
            row.batch,
            threads(row.threads),
            row.median_ms,
            row.images_per_second,
            row.speedup_vs_dense,
            row.macs,
            row.build_ms,
            row.max_relative_error
        );
    }
    for plan in &result.plans {
        let build = plan.build;
        _ = writeln!(
            text,
            "fastest   {:>6} {:>8} {:>12.4} {:>10.0} {:>8.2}× {:>13} {:>9.2} {:>8.1e}",
            plan.batch,
            threads(plan.threads),
            plan.median_ms,
            plan.batch as f64 / plan.median_ms * 1e3,
            plan.speedup_vs_dense,
            "-",
            build.fuse_ms + build.measure_ms + build.pack_ms,
            plan.max_relative_error
        );
    }
    text += ROWS;
    result.plans.iter().for_each(|plan| layers(&mut text, plan));
    text +=
        "\nspeed-up over dense\n batch  estimated    counted  measured compact  measured sparse\n";
    for figures in &result.figures {
        _ = writeln!(
            text,
            "{:>6} {:>9.2}× {:>9.2}× {:>16.2}× {:>15.2}×",
            figures.batch,
            figures.projected,
            figures.mac_ratio,
            figures.measured_compact,
            figures.measured_sparse
        );
    }
    text + SPEED_UPS
}

/// What the fastest plan does with each layer, neighbours that are alike in one line.
fn layers(text: &mut String, plan: &PlanRow) {
    let alike = |a: &PlannedLayer, b: &PlannedLayer| {
        (a.algorithm, a.format, a.dense_ms.is_some())
            == (b.algorithm, b.format, b.dense_ms.is_some())
    };
    _ = writeln!(text, "\nlayers of fastest at batch {}", plan.batch);
    for run in plan.layers.chunk_by(alike) {
        let [first, .., last] = run else {
            let name = run[0].name.clone();
            line(text, &name, run);
            continue;
        };
        line(text, &format!("{} … {} ({} layers)", first.name, last.name, run.len()), run);
    }
}

/// One line of layers that are alike. Fully connected layers have no sparse way.
fn line(text: &mut String, names: &str, run: &[PlannedLayer]) {
    let algorithm = match run[0].algorithm {
        Algorithm::Dense => "dense",
        Algorithm::Sparse => "sparse",
    };
    let sum = |time: fn(&PlannedLayer) -> Option<f64>| run.iter().map(time).sum::<Option<f64>>();
    let times = match (sum(|layer| layer.dense_ms), sum(|layer| layer.sparse_ms)) {
        (Some(dense), Some(sparse)) => {
            format!("  measured ms an image: {dense:.4} dense, {sparse:.4} sparse")
        }
        _ => String::new(),
    };
    _ = writeln!(text, "  {algorithm:<6}  {names}{times}");
}
