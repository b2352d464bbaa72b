//! The 3 × 3 convolutions of VGG16, dense and over kept weights.

use super::timer::{self, sets};
use super::{Prepared, compare, floats};
use crate::values;
use anyhow::{Result, bail};
use half::bf16;
use rewire::ops::{
    self, FilterLists, InferConv2d, PackedFilter, PackedSparseFilter, SparseProduct, TileConfig,
};
use rewire::{DType, Device, Mode, Seed, Tensor};

/// Outputs that are compared with float64.
const SAMPLES: usize = 4000;

/// Same-padded, of `images` of `side` × `side` pixels.
pub struct Layer {
    images: usize,
    side: usize,
    channels: usize,
    filters: usize,
    small: bool,
}

impl Layer {
    /// Number `layer` of VGG16, from 1; small: an eighth of the channels, few images.
    pub fn new(layer: usize, images: usize, small: bool) -> Self {
        let (side, channels, filters) = match layer {
            2 => (32, 64, 64),
            4 => (16, 128, 128),
            5 => (8, 128, 256),
            7 => (8, 256, 256),
            8 => (4, 256, 512),
            10 => (4, 512, 512),
            _ => (2, 512, 512),
        };
        let (part, images) = if small { (8, images / 128 * 3) } else { (1, images) };
        Self { images, side, channels: channels / part, filters: filters / part, small }
    }

    fn pixels(&self) -> usize {
        self.images * self.side * self.side
    }

    fn input(&self) -> [usize; 4] {
        [self.images, self.side, self.side, self.channels]
    }

    fn output(&self) -> [usize; 4] {
        [self.images, self.side, self.side, self.filters]
    }

    fn filter(&self) -> [usize; 4] {
        [self.filters, 3, 3, self.channels]
    }

    /// Operations with every weight and with `kept` of them.
    fn flop(&self, kept: usize) -> [f64; 2] {
        let weights = self.filter().iter().product::<usize>();
        [weights, kept].map(|weights| 2.0 * self.pixels() as f64 * weights as f64)
    }

    /// `relu(x ∗ w + bias)` at some positions of the output: their indices and values in float64.
    fn truth(&self, x: &[f32], w: &[f32], bias: &[f32]) -> (Vec<usize>, Vec<f64>) {
        let Self { side, channels, filters, .. } = *self;
        let drawn = Seed(3).stream("positions", 0, 0);
        let len = self.pixels() * filters;
        let at: Vec<usize> = (0..SAMPLES.min(len))
            .map(|i| ((u64::from(drawn.bits(i)) * len as u64) >> 32) as usize)
            .collect();
        let value = |&at: &usize| {
            let (k, pixel) = (at % filters, at / filters);
            let (image, row, column) = (pixel / side / side, pixel / side % side, pixel % side);
            let mut sum = f64::from(bias[k]);
            for (r, s) in (0..3).flat_map(|r| (0..3).map(move |s| (r, s))) {
                let (i, j) = (row + r, column + s);
                if !(1..=side).contains(&i) || !(1..=side).contains(&j) {
                    continue;
                }
                let x = &x[((image * side + i - 1) * side + j - 1) * channels..][..channels];
                let w = &w[((k * 3 + r) * 3 + s) * channels..][..channels];
                sum += x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
            }
            sum.max(0.0)
        };
        let values = at.iter().map(value).collect();
        (at, values)
    }

    /// Compares results as rows of channels, all of which must have been written, with [`Self::truth`].
    fn compare(&self, y: &Tensor, operands: [&[f32]; 3], mode: Mode) -> Result<f64> {
        let y = floats(y)?;
        if let Some(at) = y.iter().position(|y| !y.is_finite()) {
            bail!("result {at} is {}", y[at]);
        }
        let [x, w, bias] = operands;
        let (at, want) = self.truth(x, w, bias);
        let stride = y.len() / self.pixels();
        let got: Vec<f32> =
            at.iter().map(|at| y[at / self.filters * stride + at % self.filters]).collect();
        compare(&got, &want, mode.tolerance())
    }
}

/// A tensor that shows what was not written.
fn poisoned(shape: &[usize], storage: DType, device: &Device) -> rewire::Result<Tensor> {
    let len = shape.iter().product();
    match storage {
        DType::Bf16 => Tensor::from_vec(vec![bf16::NAN; len], shape, device),
        _ => Tensor::from_vec(vec![f32::NAN; len], shape, device),
    }
}

/// So many copies in memory of their own.
fn copies(of: Tensor, count: usize) -> rewire::Result<Vec<Tensor>> {
    let mut all = vec![of; count];
    all.iter_mut().try_for_each(Tensor::make_unique)?;
    Ok(all)
}

/// Input, weight, of which each input channel keeps a share, and bias.
fn operands(layer: &Layer, shares: &[f32]) -> [Vec<f32>; 3] {
    let mut w = values("w", layer.filter().iter().product());
    let drawn = values("mask", w.len());
    for (i, (w, drawn)) in w.iter_mut().zip(drawn).enumerate() {
        if drawn + 0.5 >= shares[i % layer.channels] {
            *w = 0.0;
        }
    }
    [values("x", layer.pixels() * layer.channels), w, values("bias", layer.filters)]
}

/// `x` in the storage of a mode, in rows of channels.
fn rows(layer: &Layer, x: &[f32], mode: Mode, device: &Device) -> rewire::Result<Tensor> {
    let [n, h, w, c] = layer.input();
    let x = Tensor::from_vec(x.to_vec(), &layer.input(), device)?;
    let storage = mode.storage();
    let mut rows = Tensor::zeros(&[n, h, w, storage.padded(c)], storage, device)?;
    ops::infer_input(&x, None, &mut rows)?;
    Ok(rows)
}

/// One set of buffers.
struct Set<F> {
    filter: F,
    x: Tensor,
    y: Tensor,
}

pub fn dense(layer: &Layer, mode: Mode, device: &Device) -> Result<Prepared> {
    let [x, w, bias] = operands(layer, &vec![1.0; layer.channels]);
    let input = rows(layer, &x, mode, device)?;
    let weight = Tensor::from_vec(w.clone(), &layer.filter(), device)?;
    let shift = Tensor::from_vec(bias.clone(), &[layer.filters], device)?;
    let [n, h, side, k] = layer.output();
    let storage = mode.storage();
    let output = poisoned(&[n, h, side, storage.padded(k)], storage, device)?;
    let bytes = (input.len() + weight.len() + output.len()) * storage.size();
    let sets = sets(bytes, layer.small);
    let mut all = Vec::new();
    for (x, y) in copies(input, sets)?.into_iter().zip(copies(output, sets)?) {
        let filter = PackedFilter::new(&weight, &shift, mode, None)?;
        let filter = InferConv2d { filter, stride: 1, padding: 1, relu: true, pool: false };
        all.push(Set { filter, x, y });
    }
    let config = fastest(&mut all[0], device)?;
    all[0].y = poisoned(all[1].y.shape(), storage, device)?;
    let run = move |Set { filter, x, y }: &mut Set<InferConv2d>| filter.run(x, None, config, y);
    run(&mut all[0])?;
    let error = layer.compare(&all[0].y, [&x, &w, &bias], mode)?;
    Ok(Prepared {
        call: Box::new(move |set| run(&mut all[set])),
        sets,
        error,
        flop: layer.flop(weight.len()),
        bytes,
        weight: Some(weight),
        how: config.to_string(),
    })
}

/// The tiling whose queued launches take the shortest, as a plan finds it; the first guess where time means nothing.
fn fastest(set: &mut Set<InferConv2d>, device: &Device) -> Result<TileConfig> {
    let configs = set.filter.configs(set.x.shape())?;
    let mut best = (f64::INFINITY, configs[0]);
    for config in configs.into_iter().filter(|_| timer::records(device)) {
        let Set { filter, x, y } = &mut *set;
        let seconds = timer::estimate(device, || filter.run(x, None, config, y))?;
        if seconds < best.0 {
            best = (seconds, config);
        }
    }
    Ok(best.1)
}

/// What each channel keeps: the same, or log-normal around it, σ = 1, as where pruning found channels of different worth.
fn shares(channels: usize, density: f32, skewed: bool) -> Vec<f32> {
    let drawn = Seed(2).stream("shares", 0, 0);
    let weight = |channel| if skewed { drawn.normal(channel).exp() } else { 1.0 };
    let weights: Vec<f32> = (0..channels).map(weight).collect();
    let mean = weights.iter().sum::<f32>() / channels as f32;
    weights.into_iter().map(|weight| density * weight / mean).collect()
}

/// bf16 on tensor cores by columns permuted for 2:4 sparsity; else on CUDA cores, kept weights alone.
pub fn sparse(
    layer: &Layer,
    density: f32,
    skewed: bool,
    mode: Mode,
    device: &Device,
) -> Result<Prepared> {
    let [x, w, bias] = operands(layer, &shares(layer.channels, density, skewed));
    let weight = Tensor::from_vec(w.clone(), &layer.filter(), device)?;
    let shift = Tensor::from_vec(bias.clone(), &[layer.filters], device)?;
    let storage = mode.storage();
    let planes = |shape| ops::planes_shape(shape, storage);
    let mut input = Tensor::zeros(&planes(layer.input()), storage, device)?;
    ops::rows_to_planes(&rows(layer, &x, mode, device)?, &mut input)?;
    let output = poisoned(&planes(layer.output()), storage, device)?;
    let kept = w.iter().filter(|&&w| w != 0.0).count();
    // A kept weight is its value and where its input lies.
    let bytes = (input.len() + output.len()) * storage.size() + 8 * kept;
    let sets = sets(bytes, layer.small);
    let buffers = copies(input, sets)?.into_iter().zip(copies(output, sets)?);
    let (side, operands) = (layer.side, [&x[..], &w, &bias]);
    let prepared = |call, error, how| Prepared {
        call,
        sets,
        error,
        flop: layer.flop(kept),
        bytes,
        weight: Some(weight.clone()),
        how,
    };
    if mode == Mode::Bf16 {
        let mut all = Vec::new();
        for (x, y) in buffers {
            let product = SparseProduct::TwoFour;
            let size = [side, side];
            let filter = PackedSparseFilter::new(&weight, Some(&shift), size, 1, 1, product)?;
            all.push(Set { filter, x, y });
        }
        let how = format!("2:4, {:.1} % of the places empty", 100.0 * all[0].filter.padding());
        let run = |Set { filter, x, y }: &mut Set<PackedSparseFilter>| {
            ops::infer_sparse_conv2d(x, filter, None, true, false, y)
        };
        run(&mut all[0])?;
        let error = layer.compare(&in_rows(layer, &all[0].y)?, operands, mode)?;
        return Ok(prepared(Box::new(move |set| run(&mut all[set])), error, how));
    }
    let mut all = Vec::new();
    for (x, y) in buffers {
        let size = [side, side];
        let filter = FilterLists::new(&weight, &shift, layer.images, size, [1, 1], mode)?;
        all.push(Set { filter, x, y });
    }
    let run = |Set { filter, x, y }: &mut Set<FilterLists>| {
        ops::infer_sparse_lists(x, filter, None, true, false, y)
    };
    run(&mut all[0])?;
    let error = layer.compare(&in_rows(layer, &all[0].y)?, operands, mode)?;
    Ok(prepared(Box::new(move |set| run(&mut all[set])), error, "lists of kept weights".into()))
}

/// Planes as rows of channels.
fn in_rows(layer: &Layer, planes: &Tensor) -> Result<Tensor> {
    let [n, h, w, k] = layer.output();
    let mut rows =
        poisoned(&[n, h, w, planes.dtype().padded(k)], planes.dtype(), &planes.device())?;
    ops::planes_to_rows(planes, &mut rows)?;
    Ok(rows)
}
