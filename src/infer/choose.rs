//! Which way each convolution of a plan takes.

use super::conversion::conversion_seconds;
use super::cpu::CpuPlan;
use super::fused::{LayerOp, Network};
use super::gpu::{self, GpuPlan};
use super::gpu_ready::{GpuSettings, ReadyLayers, TileChoice};
use super::remember::{Content, Remembered};
use super::way::{Algorithm, Way};
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

/// A choice for every layer.
pub(super) struct Chosen {
    pub(super) ways: Vec<Way>,
    /// The tiles of dense convolutions on a GPU; none on a CPU.
    pub(super) tiles: Vec<Option<TileConfig>>,
    /// Whether it was measured just now.
    pub(super) measured: bool,
    /// Seconds of each layer for one image in a dense network, where they were measured.
    pub(super) dense: Option<Vec<f64>>,
    /// The same by the sparse way that took the shortest.
    pub(super) sparse: Option<Vec<f64>>,
}

impl Chosen {
    fn unmeasured(Content { ways, tiles }: Content) -> Self {
        Self { ways, tiles, measured: false, dense: None, sparse: None }
    }

    /// The algorithm of each layer.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        algorithms(&self.ways)
    }
}

/// A plan that is tried.
trait Candidate {
    /// By layer, how it runs: as was asked for, or dense where that cannot be.
    fn ways(&self) -> &[Way];
    /// Seconds of each layer for one image.
    fn layer_seconds(&self) -> Result<Vec<f64>>;
    /// Seconds to convert a value of the shape, of one image, between the forms of the algorithms.
    fn conversion_seconds(&self, shape: [usize; 3]) -> Result<f64>;
    /// Runs the whole network.
    fn call(&mut self) -> Result<()>;
    /// What to remember besides the ways.
    fn tiles(&self) -> Vec<Option<TileConfig>>;
}

/// `way` for every convolution; fully connected layers stay dense.
pub(super) fn forced(network: &Network, way: Way) -> Chosen {
    let own = network.layers.iter().map(|layer| match &layer.op {
        LayerOp::Conv(conv) if !conv.linear => way,
        _ => Way::Dense,
    });
    Chosen::unmeasured(Content { ways: own.collect(), tiles: Vec::new() })
}

/// The choice on a CPU, and the plan where one was built for it. Where nothing is pruned there is none.
pub(super) fn measured_on_cpu(
    network: &Network,
    batch: usize,
    mode: Mode,
) -> Result<(Chosen, Option<CpuPlan>)> {
    if !pruned(network).contains(&true) {
        return Ok((forced(network, Way::Dense), None));
    }
    let remembered = Remembered::find(network, batch, mode, &Device::Cpu);
    let sparse = Way::sparse(&Device::Cpu, mode);
    let build = |ways: &[Way]| Ok(OnCpu::new(network, batch, mode, ways));
    let (chosen, won) = measured(network, remembered, sparse, build)?;
    Ok((chosen, won.map(|won| won.plan)))
}

/// The choice on a GPU, with it that of the tiles of dense convolutions, and the plan where one was built for it.
pub(super) fn measured_on_gpu(
    network: &Network,
    batch: usize,
    mode: Mode,
    device: &Device,
) -> Result<(Chosen, Option<GpuPlan>)> {
    let remembered = Remembered::find(network, batch, mode, device);
    let [h, w, c] = network.shapes[0];
    let pixels = Tensor::from_vec(images(network, batch), &[batch, h, w, c], device)?;
    let settings = GpuSettings { device, batch, mode, tiles: TileChoice::Known(&[]) };
    let mut ready = ReadyLayers::new(network, settings);
    let (chosen, won) = measured(network, remembered, Way::sparse(device, mode), |ways| {
        let ways = ready.packable(ways)?;
        let plan = GpuPlan::build(&mut ready, &ways)?;
        plan.load(&pixels)?;
        Ok(OnGpu { plan, ways, settings })
    })?;
    Ok((chosen, won.map(|won| won.plan)))
}

/// The fastest of: everything dense, every pruned convolution in one of the `sparse` ways as far as it can be packed, and
/// the mix that the layers' own times and the conversions between neighbours suggest; with its plan, unless the choice was
/// remembered.
fn measured<P: Candidate>(
    network: &Network,
    remembered: Remembered,
    sparse: &[Way],
    mut build: impl FnMut(&[Way]) -> Result<P>,
) -> Result<(Chosen, Option<P>)> {
    if let Some(content) = remembered.content {
        return Ok((Chosen::unmeasured(content), None));
    }
    let dense = forced(network, Way::Dense).ways;
    let mut plans = vec![build(&dense)?];
    let tiles = plans[0].tiles();
    // By layer: the sparse way that takes the shortest.
    let (mut best, mut sparse_times) = (dense, Vec::new());
    let pruned = pruned(network);
    let tried = if pruned.contains(&true) { sparse } else { &[] };
    for &way in tried {
        let ways = pruned.iter().map(|&pruned| if pruned { way } else { Way::Dense });
        let plan = build(&ways.collect::<Vec<_>>())?;
        if plan.ways().iter().all(|&way| way == Way::Dense) {
            continue;
        }
        let times = layer_times(&plan)?;
        if sparse_times.is_empty() {
            sparse_times.clone_from(&times);
        }
        for (i, &way) in plan.ways().iter().enumerate().filter(|(_, way)| **way != Way::Dense) {
            if best[i] == Way::Dense || times[i] < sparse_times[i] {
                (best[i], sparse_times[i]) = (way, times[i]);
            }
        }
        plans.push(plan);
    }
    let (mut won, mut dense_times) = (0, None);
    if plans.len() > 1 {
        let times = layer_times(&plans[0])?;
        let conversions = conversions(network, &plans[0])?;
        let mixed = mix(network, &best, &times, &sparse_times, &conversions);
        if plans.iter().all(|plan| plan.ways() != mixed) {
            plans.push(build(&mixed)?);
        }
        dense_times = Some(times);
        won = fastest(&mut plans)?;
    }
    let plan = plans.swap_remove(won);
    let content = Content { ways: plan.ways().to_vec(), tiles };
    remembered.keep(&content);
    let sparse = dense_times.is_some().then_some(sparse_times);
    let chosen = Chosen::unmeasured(content);
    Ok((Chosen { measured: true, dense: dense_times, sparse, ..chosen }, Some(plan)))
}

/// The algorithm of each way.
fn algorithms(ways: &[Way]) -> Vec<Algorithm> {
    ways.iter().map(|way| way.algorithm()).collect()
}

struct OnCpu {
    plan: CpuPlan,
    mode: Mode,
    ways: Vec<Way>,
    layers: usize,
    pixels: Vec<f32>,
    logits: Vec<f32>,
}

impl OnCpu {
    fn new(network: &Network, batch: usize, mode: Mode, ways: &[Way]) -> Self {
        let classes = network.shapes[network.shapes.len() - 1].iter().product::<usize>();
        Self {
            plan: CpuPlan::build(network, batch, mode, &algorithms(ways)),
            mode,
            ways: ways.to_vec(),
            layers: network.layers.len(),
            pixels: images(network, batch),
            logits: vec![0.0; batch * classes],
        }
    }
}

impl Candidate for OnCpu {
    fn ways(&self) -> &[Way] {
        &self.ways
    }

    fn layer_seconds(&self) -> Result<Vec<f64>> {
        let part = self.plan.part() as f64;
        Ok(self.plan.layer_seconds(self.layers).into_iter().map(|time| time / part).collect())
    }

    fn conversion_seconds(&self, shape: [usize; 3]) -> Result<f64> {
        let part = self.plan.part();
        Ok(conversion_seconds(shape, part, self.mode) / part as f64)
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
    ways: Vec<Way>,
    settings: GpuSettings<'a>,
}

impl Candidate for OnGpu<'_> {
    fn ways(&self) -> &[Way] {
        &self.ways
    }

    fn layer_seconds(&self) -> Result<Vec<f64>> {
        let batch = self.settings.batch as f64;
        Ok(self.plan.layer_seconds()?.into_iter().map(|time| time / batch).collect())
    }

    fn conversion_seconds(&self, shape: [usize; 3]) -> Result<f64> {
        Ok(gpu::conversion_seconds(shape, &self.settings)? / self.settings.batch as f64)
    }

    fn call(&mut self) -> Result<()> {
        self.plan.call()
    }

    fn tiles(&self) -> Vec<Option<TileConfig>> {
        self.plan.tiles()
    }
}

/// By layer: whether so many weights are 0 that sparse ways are tried.
fn pruned(network: &Network) -> Vec<bool> {
    let own = network.layers.iter().map(|layer| match &layer.op {
        LayerOp::Conv(conv) => {
            !conv.linear && (conv.kept() as f64) < DENSE_FROM * conv.weight.len() as f64
        }
        _ => false,
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

/// Starts from the faster way of each layer, dense or `sparse`, and changes runs of layers as long as that makes the sum
/// of layers and conversions smaller.
fn mix(
    network: &Network,
    sparse: &[Way],
    dense_s: &[f64],
    sparse_s: &[f64],
    conversions: &[f64],
) -> Vec<Way> {
    let cost = |ways: &[Way]| -> f64 {
        let layers = network.layers.iter().enumerate().map(|(i, layer)| {
            let own = match ways[i].algorithm() {
                Algorithm::Dense => dense_s[i],
                Algorithm::Sparse => sparse_s[i],
            };
            let read = [Some(layer.input), layer.residual].into_iter().flatten();
            let apart = |value: usize| ways[value - 1].algorithm() != ways[i].algorithm();
            let converted = read.filter(|&value| value > 0 && apart(value));
            own + converted.map(|value| conversions[value]).sum::<f64>()
        });
        layers.sum()
    };
    let count = network.layers.len();
    let mut best: Vec<Way> =
        (0..count).map(|i| if sparse_s[i] < dense_s[i] { sparse[i] } else { Way::Dense }).collect();
    let mut least = cost(&best);
    loop {
        let mut better = None;
        for first in 0..count {
            for end in first + 1..=count {
                for to in [&vec![Way::Dense; count][..], sparse] {
                    let mut tried = best.clone();
                    tried[first..end].copy_from_slice(&to[first..end]);
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
fn fastest(candidates: &mut [impl Candidate]) -> Result<usize> {
    let mut best = vec![f64::INFINITY; candidates.len()];
    let (start, mut rounds) = (Instant::now(), 0);
    while rounds < ROUNDS || start.elapsed() < COMPARED {
        for (best, plan) in best.iter_mut().zip(candidates.iter_mut()) {
            let start = Instant::now();
            plan.call()?;
            *best = best.min(start.elapsed().as_secs_f64());
        }
        rounds += 1;
    }
    let fastest = best.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
    Ok(fastest.map_or(0, |(index, _)| index))
}
