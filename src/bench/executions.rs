//! Measures the executions of one network against each other.

use super::clock::{median, seconds, synchronize};
use super::result::{BenchResult, BenchRow, Execution, Figures, PlanRow};
use crate::device::host_memory;
use crate::dtype::DType;
use crate::infer::{Algorithm, Choice, Plan, Reference, reference};
use crate::nn::{self, Model, Op};
use crate::{Device, Mode, Result, Seed, Tape, Tensor, ops};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Images on which the logits are compared with float64: the float64 network runs by plain loops.
const COMPARED: usize = 2;

/// A plan chosen by measuring is measured anew where a single execution is faster by more than this factor.
const BEATEN: f64 = 1.03;

/// How long a runner's turn of short calls is.
const TURN: Duration = Duration::from_millis(100);

/// What to measure.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Images a call.
    pub batches: Vec<usize>,
    /// Arithmetic of matrix products.
    pub mode: Mode,
    /// Time that the calls of one batch size may take altogether; at least three rounds are done.
    pub budget: Duration,
    /// Whether the fastest plan is measured anew where a choice for it is remembered.
    pub remeasure: bool,
    /// For the images.
    pub seed: Seed,
}

/// A network that is executed for one batch size, ready to be called.
struct Runner {
    /// `None`: the fastest plan of the shrunk network.
    execution: Option<Execution>,
    runs: Runs,
    build_ms: f64,
    macs: u64,
}

enum Runs {
    Plan(Box<Plan>),
    /// Uncompiled: the product with the mask happens in every call.
    Masked(Box<Masked>),
}

struct Masked {
    model: Model,
    /// Name of the weight, its values, its mask.
    masks: Vec<(String, Tensor, Tensor)>,
}

/// What was measured for one batch size.
struct Measured {
    batch: usize,
    /// In the order of [`Runner::all`].
    all: Vec<Timed>,
}

/// A runner, its median seconds of a call and its error.
struct Timed {
    runner: Runner,
    seconds: f64,
    error: f64,
}

impl Bench {
    /// Measures `model`, whose zero weights are the pruned ones. `progress` hears what is being measured.
    ///
    /// The fastest plan is also measured anew where its choice was remembered and dense, compact or sparse execution turns out
    /// to be faster. The executions take turns, so that a machine that changes its speed changes it for all of them; a row
    /// holds the median. Building plans and sparse formats is timed apart.
    ///
    /// Errors: those of building and running; [`crate::ErrorKind::Device`] where memory does not hold a batch.
    pub fn run(&self, model: &Model, progress: &mut dyn FnMut(&str)) -> Result<BenchResult> {
        let prunable = weights(model)?;
        let nonzero = count(&prunable);
        let total: usize = prunable.values().map(Vec::len).sum();
        let mut result = BenchResult {
            model: None,
            cpu: Some(crate::device::cpu_name()),
            arch: model.arch().to_string(),
            device: model.device().to_string(),
            mode: self.mode.to_string(),
            threads: rayon::current_num_threads(),
            density: nonzero as f64 / total.max(1) as f64,
            nonzero_share: nonzero as f64 / total.max(1) as f64,
            prunable: total,
            rows: Vec::new(),
            plans: Vec::new(),
            figures: Vec::new(),
        };
        let compact = crate::prune::shrink(model)?;
        for &batch in &self.batches {
            if *model.device() == Device::Cpu {
                // Masked execution keeps the values of the whole batch; the others are cut to what there is.
                model.check_memory(batch, size_of::<f32>())?;
            }
            let x = images(model, batch, self.seed)?;
            progress(&format!("batch {batch}: building"));
            let choice = if self.remeasure { Choice::Remeasured } else { Choice::Measured };
            let mut runners = Runner::all(model, &compact, batch, self.mode, choice)?;
            progress(&format!("batch {batch}: comparing with float64"));
            let truth = reference(model, &head(&x, COMPARED.min(batch))?)?;
            let mut measured = self.measure(runners, &x, &truth, progress)?;
            if measured.beaten() {
                progress(&format!("batch {batch}: measuring the layers again"));
                runners = measured.all.into_iter().map(|timed| timed.runner).collect();
                runners.pop();
                let again = Choice::Remeasured;
                runners.push(Runner::build(None, model, &compact, batch, self.mode, again)?);
                measured = self.measure(runners, &x, &truth, progress)?;
            }
            result.rows.extend(measured.rows(nonzero));
            result.plans.extend(measured.plans());
            result.figures.push(measured.figures(self.projected(model, batch, &truth)?));
        }
        Ok(result)
    }

    fn measure(
        &self,
        mut runners: Vec<Runner>,
        x: &Tensor,
        truth: &Reference,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Measured> {
        let batch = x.shape()[0];
        let errors = runners
            .iter_mut()
            .map(|runner| self.error(runner, x, truth))
            .collect::<Result<Vec<_>>>()?;
        progress(&format!("batch {batch}: timing"));
        let times = self.time(&mut runners, x)?;
        let all = runners.into_iter().zip(times).zip(errors);
        let all = all.map(|((runner, seconds), error)| Timed { runner, seconds, error });
        Ok(Measured { batch, all: all.collect() })
    }

    fn error(&self, runner: &mut Runner, x: &Tensor, truth: &Reference) -> Result<f64> {
        let logits = runner.call(self.mode, x)?.to_vec::<f32>()?;
        let (mut error, mut norm) = (0.0, 0.0);
        for (got, want) in logits.iter().zip(&truth.logits) {
            error += (f64::from(*got) - want).powi(2);
            norm += want * want;
        }
        Ok((error / norm.max(f64::MIN_POSITIVE)).sqrt())
    }

    /// Median seconds of a call of each runner, in turns. Of a turn of short calls the first quarter is not counted: it
    /// finds the caches full of another runner's weights.
    fn time(&self, runners: &mut [Runner], x: &Tensor) -> Result<Vec<f64>> {
        let mut times = vec![Vec::new(); runners.len()];
        let (start, mut rounds) = (Instant::now(), 0);
        while rounds < 3 || (start.elapsed() < self.budget && rounds < 1000) {
            for (runner, times) in runners.iter_mut().zip(&mut times) {
                let turn = Instant::now();
                let mut call = || seconds(&x.device(), || runner.call(self.mode, x).map(drop));
                let mut last = call()?;
                while turn.elapsed() < TURN / 4 {
                    last = call()?;
                }
                if turn.elapsed() >= TURN {
                    times.push(last);
                }
                while turn.elapsed() < TURN {
                    times.push(call()?);
                }
            }
            rounds += 1;
        }
        Ok(times.into_iter().map(median).collect())
    }

    /// [`Figures::projected`].
    fn projected(&self, model: &Model, batch: usize, truth: &Reference) -> Result<f64> {
        let (mut dense, mut estimate) = (0.0, 0.0);
        for node in &model.graph().nodes {
            let Op::Conv { name, stride, padding, .. } = &node.op else { continue };
            let Some(input) = truth.inputs.iter().find(|input| input.name == *name) else {
                continue;
            };
            let weight = model.param(&format!("{name}.weight"))?;
            let [h, w, c] = input.shape;
            let stream = self.seed.stream("bench.projected", 0, 0);
            let x = uniform(&[batch, h, w, c], model.device(), |index| stream.uniform(index))?;
            let mut times = Vec::new();
            for _ in 0..3 {
                times.push(seconds(model.device(), || {
                    let mut tape = Tape::new(self.mode);
                    ops::conv2d(&mut tape, &x, weight, None, *stride, *padding).map(drop)
                })?);
            }
            let time = median(times);
            dense += time;
            estimate += time * (1.0 - dead_channels(weight)?) * (1.0 - input.dead_maps);
        }
        Ok(dense / estimate.max(f64::MIN_POSITIVE))
    }
}

impl Measured {
    /// The runner of an execution.
    fn of(&self, execution: Execution) -> &Timed {
        &self.all[execution as usize]
    }

    /// The time of the dense execution over `seconds`.
    fn speedup(&self, seconds: f64) -> f64 {
        self.of(Execution::Dense).seconds / seconds
    }

    /// Whether the fastest plan is one whose choice was remembered, and a single execution is faster.
    fn beaten(&self) -> bool {
        let singles = [Execution::Dense, Execution::Compact, Execution::Sparse];
        let best =
            singles.map(|own| self.of(own).seconds).into_iter().fold(f64::INFINITY, f64::min);
        self.all.iter().any(|Timed { runner, seconds, .. }| {
            match (runner.execution, &runner.runs) {
                (None, Runs::Plan(plan)) => {
                    plan.build_times().measure_ms == 0.0 && *seconds > BEATEN * best
                }
                _ => false,
            }
        })
    }

    /// The rows of the executions.
    fn rows(&self, nonzero: usize) -> impl Iterator<Item = BenchRow> {
        self.all.iter().filter_map(move |Timed { runner, seconds, error }| {
            Some(BenchRow {
                execution: runner.execution?,
                batch: self.batch,
                threads: runner.threads(),
                median_ms: seconds * 1e3,
                images_per_second: self.batch as f64 / seconds,
                speedup_vs_dense: self.speedup(*seconds),
                nonzero,
                macs: runner.macs,
                build_ms: runner.build_ms,
                max_relative_error: *error,
            })
        })
    }

    /// The row of the fastest plan.
    fn plans(&self) -> impl Iterator<Item = PlanRow> {
        self.all.iter().filter_map(|Timed { runner, seconds, error }| {
            match (runner.execution, &runner.runs) {
                (None, Runs::Plan(plan)) => Some(PlanRow {
                    batch: self.batch,
                    threads: runner.threads(),
                    median_ms: seconds * 1e3,
                    speedup_vs_dense: self.speedup(*seconds),
                    max_relative_error: *error,
                    activation_bytes: plan.activation_bytes(),
                    build: plan.build_times(),
                    layers: plan.layers().to_vec(),
                }),
                _ => None,
            }
        })
    }

    fn figures(&self, projected: f64) -> Figures {
        let [dense, compact, sparse] =
            [Execution::Dense, Execution::Compact, Execution::Sparse].map(|own| self.of(own));
        Figures {
            batch: self.batch,
            projected,
            mac_ratio: dense.runner.macs as f64 / sparse.runner.macs.max(1) as f64,
            measured_compact: self.speedup(compact.seconds),
            measured_sparse: self.speedup(sparse.seconds),
        }
    }
}

impl Runner {
    /// One of each execution, in the order of [`Execution::ALL`], and the fastest plan.
    fn all(
        model: &Model,
        compact: &Model,
        batch: usize,
        mode: Mode,
        choice: Choice,
    ) -> Result<Vec<Self>> {
        let executions = Execution::ALL.into_iter().map(Some).chain([None]);
        let build = |execution| Self::build(execution, model, compact, batch, mode, choice);
        executions.map(build).collect()
    }

    /// Threads of the CPU that a call runs on.
    fn threads(&self) -> Option<usize> {
        match &self.runs {
            Runs::Plan(plan) => plan.threads(),
            Runs::Masked(own) => {
                (*own.model.device() == Device::Cpu).then(rayon::current_num_threads)
            }
        }
    }

    fn build(
        execution: Option<Execution>,
        model: &Model,
        compact: &Model,
        batch: usize,
        mode: Mode,
        measured: Choice,
    ) -> Result<Self> {
        let start = Instant::now();
        let (own, choice) = match execution {
            Some(Execution::Dense | Execution::Masked) => (model, Choice::Forced(Algorithm::Dense)),
            Some(Execution::Compact) => (compact, Choice::Forced(Algorithm::Dense)),
            Some(Execution::Sparse) => (model, Choice::Forced(Algorithm::Sparse)),
            None => (compact, measured),
        };
        let runs = match execution {
            Some(Execution::Masked) => {
                Runs::Masked(Box::new(Masked { model: own.clone(), masks: masks(own)? }))
            }
            _ => Runs::Plan(Box::new(Plan::build(own, batch, mode, choice)?)),
        };
        synchronize(model.device())?;
        let build_ms = start.elapsed().as_secs_f64() * 1e3;
        let macs = macs(own, execution == Some(Execution::Sparse))?;
        Ok(Self { execution, runs, build_ms, macs })
    }

    fn call(&mut self, mode: Mode, x: &Tensor) -> Result<Tensor> {
        let (model, masks) = match &mut self.runs {
            Runs::Plan(plan) => return plan.run(x),
            Runs::Masked(masked) => (&masked.model, &masked.masks),
        };
        let mut weights = nn::Weights::default();
        for (name, weight, mask) in masks {
            let mut weight = weight.clone();
            ops::apply_mask(&mut weight, mask)?;
            weights.substitutes.insert(name.clone(), weight);
        }
        model.forward_eval(&mut Tape::new(mode), x, &weights)
    }
}

/// A batch of uniform noise in [0, 1): never zeros, which some arithmetic finds easier.
pub(super) fn images(model: &Model, batch: usize, seed: Seed) -> Result<Tensor> {
    let arch = model.arch();
    let shape = [batch, arch.size, arch.size, arch.in_channels];
    let stream = seed.stream("bench.images", 0, 0);
    uniform(&shape, model.device(), |index| stream.uniform(index))
}

/// A tensor of these values, on the host first.
fn uniform(shape: &[usize], device: &Device, value: impl Fn(usize) -> f32) -> Result<Tensor> {
    let mut values: Vec<f32> = host_memory::zeros(shape.iter().product())?;
    values.iter_mut().enumerate().for_each(|(index, own)| *own = value(index));
    Tensor::from_vec(values, shape, device)
}

/// Multiply-accumulates of the convolutions for one image: all of them, or those of weights that are not 0.
fn macs(model: &Model, kept_only: bool) -> Result<u64> {
    let mut sum = 0;
    for layer in model.layers()?.iter().filter(|layer| layer.is_conv()) {
        let weights = if kept_only { model.kept(layer)?.weights } else { layer.weights() };
        sum += (weights * layer.positions) as u64;
    }
    Ok(sum)
}

/// The prunable weights on the host.
fn weights(model: &Model) -> Result<BTreeMap<String, Vec<f32>>> {
    let read = |name: String| Ok((name.clone(), model.param(&name)?.to_vec::<f32>()?));
    model.prunable().into_iter().map(read).collect()
}

fn count(weights: &BTreeMap<String, Vec<f32>>) -> usize {
    weights.values().flatten().filter(|value| **value != 0.0).count()
}

/// Every prunable weight with the mask of its values that are not 0.
pub(super) fn masks(model: &Model) -> Result<Vec<(String, Tensor, Tensor)>> {
    let mut all = Vec::new();
    for (name, values) in weights(model)? {
        let weight = model.param(&name)?;
        let mask: Vec<u8> = values.iter().map(|&value| u8::from(value != 0.0)).collect();
        let mask = Tensor::from_vec(mask, weight.shape(), model.device())?;
        all.push((name, weight.clone(), mask));
    }
    Ok(all)
}

/// Share of the input channels that no weight reads.
fn dead_channels(weight: &Tensor) -> Result<f64> {
    let c = weight.dims4("bench", "weight")?[3];
    let mut alive = vec![false; c];
    for (index, value) in weight.to_vec::<f32>()?.into_iter().enumerate() {
        alive[index % c] |= value != 0.0;
    }
    Ok(alive.iter().filter(|alive| !**alive).count() as f64 / c.max(1) as f64)
}

/// The first `n` images.
fn head(x: &Tensor, n: usize) -> Result<Tensor> {
    let [_, h, w, c] = x.dims4("bench", "x")?;
    x.expect_dtype("bench", DType::F32)?;
    let mut values = x.to_vec::<f32>()?;
    values.truncate(n * h * w * c);
    Tensor::from_vec(values, &[n, h, w, c], &x.device())
}
