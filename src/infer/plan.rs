//! A network made ready for one device, batch size and mode.

use super::choose::{self, Chosen};
use super::cpu::CpuPlan;
use super::fused::{LayerOp, Network};
use super::gpu::GpuPlan;
use super::gpu_ready::{GpuSettings, ReadyLayers, TileChoice};
use super::way::{Algorithm, Choice, Format};
use crate::dtype::DType;
use crate::nn::Model;
use crate::{Device, Error, Mode, Result, Tensor};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A compiled network: batch norm folded, sums, ReLU and pooling fused into the convolutions, filters packed.
///
/// ```
/// use rewire::{Device, Mode, Seed, Tensor, infer::{Algorithm, Choice, Plan}, models, nn::ArchSpec};
/// let arch = ArchSpec::parse("resnet18:width=0.0625")?.resolve();
/// let model = models::initialised(arch, Seed(1), &Device::Cpu)?;
/// let mut plan = Plan::build(&model, 4, Mode::F32, Choice::Forced(Algorithm::Dense))?;
/// let x = Tensor::zeros(&[4, 32, 32, 3], rewire::DType::F32, &Device::Cpu)?;
/// assert_eq!(plan.run(&x)?.shape(), [4, 10]);
/// # Ok::<(), rewire::Error>(())
/// ```
pub struct Plan {
    backend: Backend,
    batch: usize,
    image: [usize; 3],
    classes: usize,
    layers: Vec<PlannedLayer>,
    times: BuildTimes,
}

enum Backend {
    Cpu(CpuPlan),
    Gpu(Box<GpuPlan>),
}

/// What a plan does with one convolution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedLayer {
    /// Prefix of its parameters.
    pub name: String,
    /// How it is computed.
    pub algorithm: Algorithm,
    /// How its kept weights are packed, where it is sparse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Weights.
    pub weights: usize,
    /// Weights that are not 0.
    pub kept: usize,
    /// Measured time of the layer for one image in a network that runs dense; absent where nothing was measured. On a CPU by the
    /// threads that share the layer (one where each thread takes images of its own), on a GPU a call's share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense_ms: Option<f64>,
    /// Measured time of the layer in a network that runs sparse, in the format that took the shortest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparse_ms: Option<f64>,
}

/// How long the parts of [`Plan::build`] took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct BuildTimes {
    /// Reading the tensors, folding batch norms, fusing.
    pub fuse_ms: f64,
    /// Measuring algorithms and numbers of threads; 0 where the choice was remembered.
    pub measure_ms: f64,
    /// Packing filters and sparse formats, planning buffers; 0 where the plan is one of those that were measured.
    pub pack_ms: f64,
}

impl Plan {
    /// Makes `model` ready for calls of up to `batch` images.
    ///
    /// Errors: [`crate::ErrorKind::Param`] for a batch of 0; [`crate::ErrorKind::Device`] where the memory that is free
    /// does not hold the batch and a pass of one image; those of reading the model's tensors.
    pub fn build(model: &Model, batch: usize, mode: Mode, choice: Choice) -> Result<Self> {
        if batch == 0 {
            return Err(Error::param("batch", batch, "at least 1"));
        }
        let start = Instant::now();
        let network = Network::of(model)?;
        let fuse_ms = milliseconds(start.elapsed());
        let start = Instant::now();
        let device = model.device();
        let (chosen, kept) = match device {
            Device::Cpu => {
                let (chosen, plan) = choose::on_cpu(&network, batch, mode, choice)?;
                (chosen, plan.map(Backend::Cpu))
            }
            Device::Gpu(_) => {
                let (chosen, plan) = choose::on_gpu(&network, batch, mode, device, choice)?;
                (chosen, plan.map(|plan| Backend::Gpu(Box::new(plan))))
            }
        };
        let measure_ms = if chosen.measured { milliseconds(start.elapsed()) } else { 0.0 };
        let start = Instant::now();
        let backend = match (kept, device) {
            (Some(backend), _) => backend,
            (None, Device::Cpu) => {
                let Chosen { threads, .. } = chosen;
                let algorithms = chosen.algorithms();
                Backend::Cpu(CpuPlan::build(&network, batch, mode, &algorithms, threads)?)
            }
            (None, Device::Gpu(_)) => {
                let tiles = match choice {
                    Choice::Forced(_) => TileChoice::Guessed,
                    _ => TileChoice::Known(&chosen.tiles),
                };
                let settings = GpuSettings { device, batch, mode, tiles };
                let mut ready = ReadyLayers::new(&network, settings);
                Backend::Gpu(Box::new(GpuPlan::build(&mut ready, &chosen.ways)?))
            }
        };
        let times = BuildTimes { fuse_ms, measure_ms, pack_ms: milliseconds(start.elapsed()) };
        let layers = layers(&network, &chosen);
        let (image, classes) = (network.shapes[0], model.arch().classes);
        Ok(Self { backend, batch, image, classes, layers, times })
    }

    /// Logits `[N, classes]` of x `[N, H, W, C]` in [0, 1], N at most the plan's batch.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] for images of another shape or too many.
    pub fn run(&mut self, x: &Tensor) -> Result<Tensor> {
        let [n, ..] = x.dims4("plan", "x")?;
        let [h, w, c] = self.image;
        if x.shape()[1..] != self.image || n > self.batch {
            let want = format!("[N, {h}, {w}, {c}], N at most {}", self.batch);
            return Err(Error::shape("plan", "x", want, x.shape()));
        }
        let plan = match &mut self.backend {
            Backend::Cpu(plan) => plan,
            Backend::Gpu(plan) => return plan.run(x),
        };
        let mut logits = Tensor::empty(&[n, self.classes], DType::F32, &Device::Cpu)?;
        plan.run(x.cpu()?, logits.cpu_mut()?);
        Ok(logits)
    }

    /// Images of a call.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The convolutions and fully connected layers in the order they run.
    pub fn layers(&self) -> &[PlannedLayer] {
        &self.layers
    }

    /// Threads of the CPU that a call runs on; `None` on a GPU.
    pub fn threads(&self) -> Option<usize> {
        match &self.backend {
            Backend::Cpu(plan) => Some(plan.threads()),
            Backend::Gpu(_) => None,
        }
    }

    /// How long building took.
    pub fn build_times(&self) -> BuildTimes {
        self.times
    }

    /// Bytes that activations pass through.
    pub fn activation_bytes(&self) -> usize {
        match &self.backend {
            Backend::Cpu(plan) => plan.activation_bytes(),
            Backend::Gpu(_) => 0,
        }
    }
}

fn layers(network: &Network, chosen: &Chosen) -> Vec<PlannedLayer> {
    let named = network.layers.iter().enumerate().filter_map(|(i, layer)| match &layer.op {
        LayerOp::Conv(conv) => Some((i, conv)),
        _ => None,
    });
    let time = |times: &Option<Vec<f64>>, i: usize| times.as_ref().map(|times| times[i] * 1e3);
    let planned = named.map(|(i, conv)| PlannedLayer {
        name: conv.name.clone(),
        algorithm: chosen.ways[i].algorithm(),
        format: chosen.ways[i].format(),
        weights: conv.weight.len(),
        kept: conv.kept(),
        dense_ms: time(&chosen.dense, i),
        sparse_ms: time(&chosen.sparse, i),
    });
    planned.collect()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
