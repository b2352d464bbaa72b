//! Which algorithm each convolution of a plan takes.

use super::cpu::CpuPlan;
use super::fused::{LayerOp, Network};
use super::gpu::GpuPlan;
use super::plan::Algorithm;
use super::planner;
use crate::nn::Model;
use crate::{Mode, Result, file};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Kept share from which a convolution is never tried sparsely.
const DENSE_FROM: f64 = 0.5;
/// Rounds of a measurement, after one that is not counted.
const ROUNDS: usize = 3;
/// How long whole candidates are compared at least.
const COMPARED: Duration = Duration::from_millis(150);

/// One algorithm a layer, and the seconds of each layer where they were measured.
pub(super) struct Chosen {
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) measured: bool,
    pub(super) dense: Option<Vec<f64>>,
    pub(super) sparse: Option<Vec<f64>>,
}

impl Chosen {
    fn unmeasured(algorithms: Vec<Algorithm>) -> Self {
        Self { algorithms, measured: false, dense: None, sparse: None }
    }
}

/// `algorithm` for every convolution; fully connected layers stay dense.
pub(super) fn forced(network: &Network, algorithm: Algorithm) -> Chosen {
    let own = network.layers.iter().map(|layer| match &layer.op {
        LayerOp::Conv(conv) if !conv.linear => algorithm,
        _ => Algorithm::Dense,
    });
    Chosen::unmeasured(own.collect())
}

/// The fastest of: everything dense, every pruned convolution sparse, and the mix that the layers' own times and
/// the conversions between neighbours suggest.
pub(super) fn measured(network: &Network, batch: usize, mode: Mode) -> Chosen {
    let dense = forced(network, Algorithm::Dense).algorithms;
    let sparse = pruned(network);
    if sparse == dense {
        return Chosen::unmeasured(dense);
    }
    let remembered = Remembered::find(network, batch, mode);
    if let Some(algorithms) = &remembered.algorithms {
        return Chosen::unmeasured(algorithms.clone());
    }
    let build = |algorithms: &[Algorithm]| {
        let plan = CpuPlan::build(network, batch, mode, algorithms);
        let times = layer_times(network, &plan);
        (plan, times)
    };
    let (dense_plan, dense_times) = build(&dense);
    let (sparse_plan, sparse_times) = build(&sparse);
    let conversions = conversions(network, dense_plan.part());
    let mixed = mix(network, &sparse, &dense_times, &sparse_times, &conversions);
    let mut candidates = vec![(dense, dense_plan), (sparse, sparse_plan)];
    if candidates.iter().all(|(algorithms, _)| *algorithms != mixed) {
        let plan = build(&mixed).0;
        candidates.push((mixed, plan));
    }
    let best = fastest(network, batch, &mut candidates);
    let algorithms = candidates.swap_remove(best).0;
    remembered.keep(&algorithms);
    let (dense, sparse) = (Some(dense_times), Some(sparse_times));
    Chosen { algorithms, measured: true, dense, sparse }
}

/// The faster of dense and sparse, for all convolutions alike: the two keep activations in different types of memory.
pub(super) fn measured_on_gpu(
    model: &Model,
    network: &Network,
    batch: usize,
    mode: Mode,
) -> Result<Chosen> {
    let dense = forced(network, Algorithm::Dense);
    if pruned(network) == dense.algorithms {
        return Ok(dense);
    }
    let seconds = |algorithm: Algorithm| -> Result<f64> {
        let plan = GpuPlan::build(model, network, batch, mode, algorithm, true)?;
        plan.seconds(ROUNDS)
    };
    // What cannot be packed is not the fastest.
    let sparse = seconds(Algorithm::Sparse).unwrap_or(f64::INFINITY) < seconds(Algorithm::Dense)?;
    let chosen = if sparse { forced(network, Algorithm::Sparse) } else { dense };
    Ok(Chosen { measured: true, ..chosen })
}

/// Sparse where enough weights are 0.
fn pruned(network: &Network) -> Vec<Algorithm> {
    let own = network.layers.iter().map(|layer| match &layer.op {
        LayerOp::Conv(conv)
            if !conv.linear && (conv.kept() as f64) < DENSE_FROM * conv.weight.len() as f64 =>
        {
            Algorithm::Sparse
        }
        _ => Algorithm::Dense,
    });
    own.collect()
}

fn images(network: &Network, batch: usize) -> Vec<f32> {
    let len = batch * network.shapes[0].iter().product::<usize>();
    (0..len).map(|i| (i * 7919 % 1013) as f32 / 1013.0).collect()
}

fn logits(network: &Network, batch: usize) -> Vec<f32> {
    vec![0.0; batch * network.shapes[network.shapes.len() - 1].iter().product::<usize>()]
}

/// Seconds of each layer for one image on one core, the shortest of some rounds.
fn layer_times(network: &Network, plan: &CpuPlan) -> Vec<f64> {
    let count = network.layers.len();
    plan.layer_seconds(count);
    let mut best = vec![f64::INFINITY; count];
    for _ in 0..ROUNDS {
        let times = plan.layer_seconds(count);
        let times = times.into_iter().map(|time| time / plan.part() as f64);
        best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
    }
    best
}

/// Seconds to convert each value of one image between the forms of the algorithms.
fn conversions(network: &Network, part: usize) -> Vec<f64> {
    let mut known: BTreeMap<[usize; 3], f64> = BTreeMap::new();
    let seconds = |shape: &[usize; 3]| {
        let each = || planner::conversion_seconds(*shape, part) / part as f64;
        *known.entry(*shape).or_insert_with(each)
    };
    network.shapes.iter().map(seconds).collect()
}

/// Starts from the faster algorithm of each layer and changes runs of layers as long as that makes the sum of
/// layers and conversions smaller.
fn mix(
    network: &Network,
    sparse: &[Algorithm],
    dense_s: &[f64],
    sparse_s: &[f64],
    conversions: &[f64],
) -> Vec<Algorithm> {
    let may = |i: usize| sparse[i] == Algorithm::Sparse;
    let cost = |algorithms: &[Algorithm]| -> f64 {
        let layers = network.layers.iter().enumerate().map(|(i, layer)| {
            let own = match algorithms[i] {
                Algorithm::Dense => dense_s[i],
                Algorithm::Sparse => sparse_s[i],
            };
            let read = [Some(layer.input), layer.residual].into_iter().flatten();
            let converted =
                read.filter(|&value| value > 0 && algorithms[value - 1] != algorithms[i]);
            own + converted.map(|value| conversions[value]).sum::<f64>()
        });
        layers.sum()
    };
    let count = network.layers.len();
    let mut best: Vec<Algorithm> = (0..count)
        .map(|i| {
            let faster = may(i) && sparse_s[i] < dense_s[i];
            if faster { Algorithm::Sparse } else { Algorithm::Dense }
        })
        .collect();
    let mut least = cost(&best);
    loop {
        let mut better = None;
        for first in 0..count {
            for end in first + 1..=count {
                for to in [Algorithm::Dense, Algorithm::Sparse] {
                    let mut tried = best.clone();
                    let changed = (first..end).filter(|&i| to == Algorithm::Dense || may(i));
                    changed.for_each(|i| tried[i] = to);
                    let cost = cost(&tried);
                    if cost < 0.999 * least {
                        (better, least) = (Some(tried), cost);
                    }
                }
            }
        }
        match better {
            Some(found) => best = found,
            None => return best,
        }
    }
}

/// Index of the candidate whose calls take the shortest, in turns.
fn fastest(network: &Network, batch: usize, candidates: &mut [(Vec<Algorithm>, CpuPlan)]) -> usize {
    let (pixels, mut logits) = (images(network, batch), logits(network, batch));
    let mut best = vec![f64::INFINITY; candidates.len()];
    let (start, mut rounds) = (Instant::now(), 0);
    while rounds < ROUNDS || start.elapsed() < COMPARED {
        for (best, (_, plan)) in best.iter_mut().zip(candidates.iter_mut()) {
            let start = Instant::now();
            plan.run(&pixels, &mut logits);
            *best = best.min(start.elapsed().as_secs_f64());
        }
        rounds += 1;
    }
    let fastest = best.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
    fastest.map_or(0, |(index, _)| index)
}

/// A choice on disk, under the digest of everything that it depends on.
struct Remembered {
    file: Option<PathBuf>,
    algorithms: Option<Vec<Algorithm>>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    algorithms: Vec<Algorithm>,
}

impl Remembered {
    fn find(network: &Network, batch: usize, mode: Mode) -> Self {
        let file = crate::device::cache_folder()
            .map(|folder| folder.join("plans").join(digest(network, batch, mode) + ".json"));
        let read = |file: &PathBuf| -> Option<Vec<Algorithm>> {
            let content: Content = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
            (content.algorithms.len() == network.layers.len()).then_some(content.algorithms)
        };
        let algorithms = file.as_ref().and_then(read);
        Self { file, algorithms }
    }

    fn keep(&self, algorithms: &[Algorithm]) {
        let Some(file) = &self.file else { return };
        let content = Content { algorithms: algorithms.to_vec() };
        // A cache that cannot be written costs time, not the result.
        if let (Some(folder), Ok(json)) = (file.parent(), serde_json::to_vec(&content))
            && fs::create_dir_all(folder).is_ok()
        {
            let _ = file::write_bytes(file, &json);
        }
    }
}

/// Of the program's file, the processor, the call and what is pruned; not of the number of threads, so that
/// results do not depend on it.
fn digest(network: &Network, batch: usize, mode: Mode) -> String {
    let mut hash = Sha256::new();
    let cpu = crate::device::cpu_name();
    let program = std::env::current_exe().and_then(|path| path.metadata()).ok();
    let program = program.map(|file| (file.len(), file.modified().ok()));
    hash.update(format!("{program:?} {cpu} {batch} {mode}\n"));
    for layer in &network.layers {
        hash.update(format!(
            "{} {:?} {} {}\n",
            layer.input, layer.residual, layer.relu, layer.pool
        ));
        let LayerOp::Conv(conv) = &layer.op else { continue };
        hash.update(format!(
            "{:?} {} {} {:?}\n",
            conv.dims, conv.stride, conv.padding, conv.channels
        ));
        let kept: Vec<u8> = conv.weight.iter().map(|&weight| u8::from(weight != 0.0)).collect();
        hash.update(kept);
    }
    hash.update(format!("{:?}", network.shapes));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
