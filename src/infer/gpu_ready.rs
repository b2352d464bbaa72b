//! What the layers of a plan need on a GPU.

use super::fused::{Conv, FusedLayer, LayerOp, Network};
use super::gpu_device::{gpu, timed};
use super::way::{Format, Way};
use crate::ops::{
    Channels, FilterLists, InferConv2d, PackedFilter, PackedSparseFilter, SparseProduct, TileConfig,
};
use crate::{Device, ErrorKind, Mode, Result, Tensor};
use std::collections::BTreeMap;

/// Kept share from which 2:4 blocks would be so many that dense ones take fewer cycles.
const DENSE_PRODUCT: f64 = 0.4;

/// What the layers of a network are made ready for.
#[derive(Clone, Copy)]
pub(super) struct GpuSettings<'a> {
    pub(super) device: &'a Device,
    pub(super) batch: usize,
    pub(super) mode: Mode,
    pub(super) tiles: TileChoice<'a>,
}

/// How the tiles of dense convolutions are chosen.
#[derive(Clone, Copy)]
pub(super) enum TileChoice<'a> {
    /// As the model of the machine says.
    Guessed,
    /// By layer, as was measured before. A layer without one takes the tile whose launches take the shortest.
    Known(&'a [Option<TileConfig>]),
}

/// The layers of a network, made ready in each way at most once.
pub(super) struct ReadyLayers<'a> {
    pub(super) network: &'a Network,
    pub(super) settings: GpuSettings<'a>,
    made: BTreeMap<(usize, Way), Ready>,
}

impl<'a> ReadyLayers<'a> {
    pub(super) fn new(network: &'a Network, settings: GpuSettings<'a>) -> Self {
        Self { network, settings, made: BTreeMap::new() }
    }

    /// Layer number `i` in a way.
    pub(super) fn ready(&mut self, i: usize, way: Way) -> Result<Ready> {
        if let Some(made) = self.made.get(&(i, way)) {
            return Ok(made.clone());
        }
        let layer = &self.network.layers[i];
        let ready = Ready::new(i, layer, self.network.shapes[layer.input], way, &self.settings)?;
        self.made.insert((i, way), ready.clone());
        Ok(ready)
    }

    /// These ways, but dense where a filter does not fit the sparse kernel.
    pub(super) fn packable(&mut self, ways: &[Way]) -> Result<Vec<Way>> {
        let own = ways.iter().enumerate().map(|(i, &way)| match self.ready(i, way) {
            Err(error) if way != Way::Dense && matches!(error.kind(), ErrorKind::Shape { .. }) => {
                Ok(Way::Dense)
            }
            ready => ready.map(|_| way),
        });
        own.collect()
    }
}

/// A layer, ready to run.
#[derive(Clone)]
pub(super) enum Ready {
    /// A dense convolution over rows.
    Rows(InferConv2d, TileConfig),
    /// A sparse one over planes, on tensor cores.
    Groups(PackedSparseFilter),
    /// A sparse one over planes, on CUDA cores.
    Lists(FilterLists),
    Linear {
        weight: Tensor,
        bias: Tensor,
    },
    /// Mean and standard deviation of the image's channels.
    Normalize([Tensor; 2]),
    Nothing,
}

impl Ready {
    /// Makes layer number `i` ready, whose input has the shape `from`.
    pub(super) fn new(
        i: usize,
        layer: &FusedLayer,
        from: [usize; 3],
        way: Way,
        settings: &GpuSettings<'_>,
    ) -> Result<Self> {
        let device = settings.device;
        match &layer.op {
            LayerOp::Conv(conv) if conv.linear => Ok(Self::Linear {
                weight: upload(&conv.weight, &[conv.dims[0], conv.dims[3]], device)?,
                bias: upload(&conv.bias, &[conv.dims[0]], device)?,
            }),
            LayerOp::Conv(conv) => match way {
                Way::Dense => dense(i, layer, conv, from, settings),
                Way::Sparse(Format::Groups) => groups(conv, from, settings),
                Way::Sparse(Format::Lists) => lists(conv, from, settings),
            },
            LayerOp::Pointwise(Some((scale, shift))) => {
                if layer.input == 0 && scale.iter().all(|&scale| scale != 0.0) {
                    return normalize(scale, shift, device);
                }
                dense(i, layer, &diagonal(scale, shift), from, settings)
            }
            _ => Ok(Self::Nothing),
        }
    }
}

fn upload(values: &[f32], shape: &[usize], device: &Device) -> Result<Tensor> {
    Tensor::from_vec(values.to_vec(), shape, device)
}

fn normalize(scale: &[f32], shift: &[f32], device: &Device) -> Result<Ready> {
    let mean: Vec<f32> = scale.iter().zip(shift).map(|(scale, shift)| -shift / scale).collect();
    let std: Vec<f32> = scale.iter().map(|scale| 1.0 / scale).collect();
    Ok(Ready::Normalize([
        upload(&mean, &[mean.len()], device)?,
        upload(&std, &[std.len()], device)?,
    ]))
}

/// Scale and shift by channel as a 1 × 1 convolution.
fn diagonal(scale: &[f32], shift: &[f32]) -> Conv {
    let c = scale.len();
    let mut weight = vec![0.0; c * c];
    scale.iter().enumerate().for_each(|(i, &scale)| weight[i * c + i] = scale);
    let (name, bias) = ("scale".to_owned(), shift.to_vec());
    let dims = [c, 1, 1, c];
    Conv { name, dims, weight, bias, stride: 1, padding: 0, channels: None, linear: false }
}

/// The filter over all `c` channels, and its bias.
fn spread(conv: &Conv, c: usize, device: &Device) -> Result<[Tensor; 2]> {
    let (dims, weight) = conv.spread(c);
    Ok([upload(&weight, &dims, device)?, upload(&conv.bias, &[conv.bias.len()], device)?])
}

fn groups(conv: &Conv, [h, w, c]: [usize; 3], settings: &GpuSettings<'_>) -> Result<Ready> {
    let [weight, bias] = spread(conv, c, settings.device)?;
    // By the cycles counted in kernels/infer_sparse_conv2d.cu; not measured.
    let full = conv.kept() as f64 > DENSE_PRODUCT * weight.len() as f64;
    let product = if full { SparseProduct::Dense } else { SparseProduct::TwoFour };
    let Conv { stride, padding, .. } = *conv;
    let filter = PackedSparseFilter::new(&weight, Some(&bias), [h, w], stride, padding, product)?;
    Ok(Ready::Groups(filter))
}

fn lists(conv: &Conv, [h, w, c]: [usize; 3], settings: &GpuSettings<'_>) -> Result<Ready> {
    let &GpuSettings { device, batch, mode, .. } = settings;
    let [weight, bias] = spread(conv, c, device)?;
    let of = [conv.stride, conv.padding];
    Ok(Ready::Lists(FilterLists::new(&weight, &bias, batch, [h, w], of, mode)?))
}

fn dense(
    i: usize,
    layer: &FusedLayer,
    conv: &Conv,
    [h, w, c]: [usize; 3],
    settings: &GpuSettings<'_>,
) -> Result<Ready> {
    let &GpuSettings { device, batch, mode, tiles } = settings;
    let Conv { stride, padding, .. } = *conv;
    let index: Option<Vec<i32>> =
        conv.channels.as_ref().map(|list| list.iter().map(|&channel| channel as i32).collect());
    let channels = index.as_ref().map(|index| Channels { index, of: c });
    let weight = upload(&conv.weight, &conv.dims, device)?;
    let bias = upload(&conv.bias, &[conv.bias.len()], device)?;
    let filter = PackedFilter::new(&weight, &bias, mode, channels)?;
    let conv = InferConv2d { filter, stride, padding, relu: layer.relu, pool: layer.pool };
    let x = [batch, h, w, mode.storage().padded(c)];
    let configs = conv.configs(&x)?;
    let known = match tiles {
        TileChoice::Guessed => Some(configs[0]),
        TileChoice::Known(known) => {
            known.get(i).copied().flatten().filter(|config| configs.contains(config))
        }
    };
    let config = match known {
        Some(config) => config,
        None => fastest(&conv, &x, &configs, layer.residual.is_some(), device)?,
    };
    Ok(Ready::Rows(conv, config))
}

/// The configuration whose launches take the shortest. Where launches do not queue their time means nothing: each
/// configuration runs once, and the first one, the model's guess, is taken.
fn fastest(
    conv: &InferConv2d,
    x: &[usize],
    configs: &[TileConfig],
    added: bool,
    device: &Device,
) -> Result<TileConfig> {
    let storage = conv.filter.mode().storage();
    let x = Tensor::zeros(x, storage, device)?;
    let unpooled = InferConv2d { pool: false, ..conv.clone() }.output_shape(x.shape())?;
    let residual = added.then(|| Tensor::zeros(&unpooled, storage, device)).transpose()?;
    let shape = conv.output_shape(x.shape())?;
    let queues = gpu(device)?.records_graphs();
    let mut best = (f64::INFINITY, configs[0]);
    for &config in configs {
        let run = || {
            let mut y = Tensor::empty(&shape, storage, device)?;
            conv.run(&x, residual.as_ref(), config, &mut y)
        };
        run()?;
        if queues {
            let seconds = timed(device, run)?.1;
            if seconds < best.0 {
                best = (seconds, config);
            }
        }
    }
    Ok(best.1)
}
