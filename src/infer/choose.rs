//! Which algorithm each convolution of a plan takes.

use super::cpu::CpuPlan;
use super::fused::{LayerOp, Network};
use super::gpu::{self, GpuPlan};
use super::gpu_ready::{Target, Tiles};
use super::plan::Algorithm;
use super::planner;
use super::remember::{Content, Remembered};
use crate::ops::TileConfig;
use crate::{Device, Mode, Result, Tensor};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

/// Kept share from which a convolution is never tried sparsely.
const DENSE_FROM: f64 = 0.5;
/// Rounds of a measurement, after one that is not counted.
const ROUNDS: usize = 3;
/// How long whole candidates are compared at least.
const COMPARED: Duration = Duration::from_millis(150);

/// One algorithm a layer, how dense convolutions are cut on a GPU, and the seconds of each layer where they were measured.
pub(super) struct Chosen {
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) tiles: Vec<Option<TileConfig>>,
    pub(super) measured: bool,
    pub(super) dense: Option<Vec<f64>>,
    pub(super) sparse: Option<Vec<f64>>,
}

impl Chosen {
    fn unmeasured(Content { algorithms, tiles }: Content) -> Self {
        Self { algorithms, tiles, measured: false, dense: None, sparse: None }
    }
}

/// A plan that is tried.
trait Candidate {
    /// Seconds of each layer for one image.
    fn layer_seconds(&self) -> Result<Vec<f64>>;
    /// Seconds to convert a value of the shape, of one image, between the forms of the algorithms.
    fn conversion_seconds(&self, shape: [usize; 3]) -> Result<f64>;
    /// Runs the whole network.
    fn call(&mut self) -> Result<()>;
    /// What to remember besides the algorithms.
    fn tiles(&self) -> Vec<Option<TileConfig>>;
}

/// `algorithm` for every convolution; fully connected layers stay dense.
pub(super) fn forced(network: &Network, algorithm: Algorithm) -> Chosen {
    let own = network.layers.iter().map(|layer| match &layer.op {
        LayerOp::Conv(conv) if !conv.linear => algorithm,
        _ => Algorithm::Dense,
    });
    Chosen::unmeasured(Content { algorithms: own.collect(), tiles: Vec::new() })
}

/// The choice on a CPU. Where nothing is pruned there is none.
pub(super) fn measured_on_cpu(network: &Network, batch: usize, mode: Mode) -> Result<Chosen> {
    let dense = forced(network, Algorithm::Dense);
    if pruned(network) == dense.algorithms {
        return Ok(dense);
    }
    let remembered = Remembered::find(network, batch, mode, &Device::Cpu);
    measured(network, remembered, |algorithms, _| Ok(OnCpu::new(network, batch, mode, algorithms)))
}

/// The choice on a GPU, and with it that of the tiles of dense convolutions.
pub(super) fn measured_on_gpu(
    network: &Network,
    batch: usize,
    mode: Mode,
    device: &Device,
) -> Result<Chosen> {
    let remembered = Remembered::find(network, batch, mode, device);
    let [h, w, c] = network.shapes[0];
    let pixels = Tensor::from_vec(images(network, batch), &[batch, h, w, c], device)?;
    measured(network, remembered, |algorithms, known: &[Option<TileConfig>]| {
        let target = Target { device, batch, mode, tiles: Tiles::Known(known) };
        let plan = GpuPlan::build(network, algorithms, &target)?;
        plan.load(&pixels)?;
        Ok(OnGpu { plan, target: Target { device, batch, mode, tiles: Tiles::Guessed } })
    })
}

/// The fastest of: everything dense, every pruned convolution sparse, and the mix that the layers' own times and
/// the conversions between neighbours suggest. `build` takes algorithms and the tiles that are known.
fn measured<P: Candidate>(
    network: &Network,
    remembered: Remembered,
    build: impl Fn(&[Algorithm], &[Option<TileConfig>]) -> Result<P>,
) -> Result<Chosen> {
    if let Some(content) = remembered.content {
        return Ok(Chosen::unmeasured(content));
    }
    let dense = forced(network, Algorithm::Dense).algorithms;
    let sparse = pruned(network);
    let dense_plan = build(&dense, &[])?;
    let tiles = dense_plan.tiles();
    let kept = |algorithms: Vec<Algorithm>| {
        let content = Content { algorithms, tiles: tiles.clone() };
        remembered.keep(&content);
        Chosen { measured: true, ..Chosen::unmeasured(content) }
    };
    if sparse == dense {
        return Ok(kept(dense));
    }
    // What cannot be packed is not the fastest.
    let Ok(sparse_plan) = build(&sparse, &tiles) else { return Ok(kept(dense)) };
    let dense_times = layer_times(&dense_plan)?;
    let sparse_times = layer_times(&sparse_plan)?;
    let conversions = conversions(network, &dense_plan)?;
    let mixed = mix(network, &sparse, &dense_times, &sparse_times, &conversions);
    let mut candidates = vec![(dense, dense_plan), (sparse, sparse_plan)];
    if candidates.iter().all(|(algorithms, _)| *algorithms != mixed) {
        let plan = build(&mixed, &tiles)?;
        candidates.push((mixed, plan));
    }
    let best = fastest(&mut candidates)?;
    let chosen = kept(candidates.swap_remove(best).0);
    Ok(Chosen { dense: Some(dense_times), sparse: Some(sparse_times), ..chosen })
}

struct OnCpu {
    plan: CpuPlan,
    layers: usize,
    pixels: Vec<f32>,
    logits: Vec<f32>,
}

impl OnCpu {
    fn new(network: &Network, batch: usize, mode: Mode, algorithms: &[Algorithm]) -> Self {
        let classes = network.shapes[network.shapes.len() - 1].iter().product::<usize>();
        Self {
            plan: CpuPlan::build(network, batch, mode, algorithms),
            layers: network.layers.len(),
            pixels: images(network, batch),
            logits: vec![0.0; batch * classes],
        }
    }
}

impl Candidate for OnCpu {
    fn layer_seconds(&self) -> Result<Vec<f64>> {
        let part = self.plan.part() as f64;
        Ok(self.plan.layer_seconds(self.layers).into_iter().map(|time| time / part).collect())
    }

    fn conversion_seconds(&self, shape: [usize; 3]) -> Result<f64> {
        let part = self.plan.part();
        Ok(planner::conversion_seconds(shape, part) / part as f64)
    }

    fn call(&mut self) -> Result<()> {
        self.plan.run(&self.pixels, &mut self.logits);
        Ok(())
    }

    fn tiles(&self) -> Vec<Option<TileConfig>> {
        Vec::new()
    }
}

struct OnGpu<'a> {
    plan: GpuPlan,
    target: Target<'a>,
}

impl Candidate for OnGpu<'_> {
    fn layer_seconds(&self) -> Result<Vec<f64>> {
        let batch = self.target.batch as f64;
        Ok(self.plan.layer_seconds()?.into_iter().map(|time| time / batch).collect())
    }

    fn conversion_seconds(&self, shape: [usize; 3]) -> Result<f64> {
        Ok(gpu::conversion_seconds(shape, &self.target)? / self.target.batch as f64)
    }

    fn call(&mut self) -> Result<()> {
        self.plan.call()
    }

    fn tiles(&self) -> Vec<Option<TileConfig>> {
        self.plan.tiles()
    }
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

/// Seconds of each layer for one image, the shortest of some rounds.
fn layer_times(plan: &impl Candidate) -> Result<Vec<f64>> {
    let mut best = vec![f64::INFINITY; plan.layer_seconds()?.len()];
    for _ in 0..ROUNDS {
        let times = plan.layer_seconds()?;
        best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
    }
    Ok(best)
}

/// Seconds to convert each value of one image between the forms of the algorithms.
fn conversions(network: &Network, plan: &impl Candidate) -> Result<Vec<f64>> {
    let mut known: BTreeMap<[usize; 3], f64> = BTreeMap::new();
    for &shape in &network.shapes {
        if let Entry::Vacant(new) = known.entry(shape) {
            new.insert(plan.conversion_seconds(shape)?);
        }
    }
    Ok(network.shapes.iter().map(|shape| known[shape]).collect())
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
fn fastest(candidates: &mut [(Vec<Algorithm>, impl Candidate)]) -> Result<usize> {
    let mut best = vec![f64::INFINITY; candidates.len()];
    let (start, mut rounds) = (Instant::now(), 0);
    while rounds < ROUNDS || start.elapsed() < COMPARED {
        for (best, (_, plan)) in best.iter_mut().zip(candidates.iter_mut()) {
            let start = Instant::now();
            plan.call()?;
            *best = best.min(start.elapsed().as_secs_f64());
        }
        rounds += 1;
    }
    let fastest = best.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
    Ok(fastest.map_or(0, |(index, _)| index))
}
