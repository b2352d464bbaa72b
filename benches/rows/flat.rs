//! What runs over whole arrays: a step of an attack, and what happens to all weights of VGG16's convolutions.

use super::timer::sets;
use super::{Prepared, compare, floats};
use crate::values;
use anyhow::{Result, ensure};
use rewire::ops::{self, SgdParameter, SgdStep};
use rewire::{Device, Mode, Seed, Tape, Tensor};

/// Filters and channels of VGG16's 3 × 3 convolutions: 14 710 464 weights.
const LAYERS: [[usize; 2]; 13] = [
    [64, 3],
    [64, 64],
    [128, 64],
    [128, 128],
    [256, 128],
    [256, 256],
    [256, 256],
    [512, 256],
    [512, 512],
    [512, 512],
    [512, 512],
    [512, 512],
    [512, 512],
];

/// Kept share of the masks, and of what is pruned.
const DENSITY: f64 = 0.05;

/// Shapes of all layers; an eighth of the width, odd channels among them, where small.
fn layers(small: bool) -> Vec<[usize; 4]> {
    let part = |extent: usize| if small { extent.div_ceil(8) } else { extent };
    LAYERS.iter().map(|&[k, c]| [part(k), 3, 3, part(c)]).collect()
}

fn weights(small: bool) -> usize {
    layers(small).iter().map(|shape| shape.iter().product::<usize>()).sum()
}

/// Uniformly drawn ones.
fn mask(len: usize) -> Vec<u8> {
    values("mask", len).iter().map(|u| u8::from(f64::from(u + 0.5) < DENSITY)).collect()
}

/// So many copies in memory of their own.
fn copies(of: &Tensor, count: usize) -> rewire::Result<Vec<Tensor>> {
    let mut all = vec![of.clone(); count];
    all.iter_mut().try_for_each(Tensor::make_unique)?;
    Ok(all)
}

pub fn pgd_step(images: usize, small: bool, device: &Device) -> Result<Prepared> {
    let (eps, size) = (8.0 / 255.0, 2.0 / 255.0);
    let shape = [if small { 3 } else { images }, 32, 32, 3];
    let len: usize = shape.iter().product();
    let pixels: Vec<f32> = values("x", len).iter().map(|x| x + 0.5).collect();
    let started: Vec<f32> =
        pixels.iter().zip(values("start", len)).map(|(x, u)| x + 2.0 * eps * u).collect();
    let gradient = values("g", len);
    let upload = |data: &[f32]| Tensor::from_vec(data.to_vec(), &shape, device);
    let bytes = 16 * len;
    let sets = sets(bytes - 4 * len, small);
    let mut x = copies(&upload(&started)?, sets)?;
    let (x0, g) = (copies(&upload(&pixels)?, sets)?, copies(&upload(&gradient)?, sets)?);
    let mut call = move |set: usize| -> rewire::Result<Tensor> {
        ops::pgd_step(&mut x[set], &x0[set], &g[set], eps, size)?;
        Ok(x[set].clone())
    };
    let [eps, size] = [eps, size].map(f64::from);
    let want: Vec<f64> = (0..len)
        .map(|i| {
            let (x, x0) = (f64::from(started[i]), f64::from(pixels[i]));
            let sign = if gradient[i] == 0.0 { 0.0 } else { f64::from(gradient[i].signum()) };
            (x + size * sign).clamp(x0 - eps, x0 + eps).clamp(0.0, 1.0)
        })
        .collect();
    let error = compare(&call(0)?.to_vec()?, &want, 1e-6)?;
    Ok(Prepared {
        call: Box::new(move |set| call(set).map(drop)),
        sets,
        error,
        flop: [4.0 * len as f64; 2],
        bytes,
        weight: None,
        how: "in place".into(),
    })
}

pub fn noise(small: bool, device: &Device) -> Result<Prepared> {
    let alpha = Tensor::from_vec(vec![0.25f32], &[1], device)?;
    let shapes = layers(small);
    let total = weights(small);
    // Weights twice, for their deviation and for the sum; masks; results in bf16, as a convolution reads them.
    let (bytes, buffers) = (11 * total, 7 * total);
    let sets = sets(buffers, small);
    let stream = |layer: usize| Seed(1).stream("noise", 0, layer as u32);
    let (mut hosts, mut all) = (Vec::new(), vec![Vec::new(); sets]);
    for (i, shape) in shapes.iter().enumerate() {
        let len = shape.iter().product();
        let (w, m) = (values(&format!("w{i}"), len), mask(len));
        let weight = Tensor::from_vec(w.clone(), shape, device)?;
        let masks = Tensor::from_vec(m.clone(), shape, device)?;
        let copied = copies(&weight, sets)?.into_iter().zip(copies(&masks, sets)?);
        all.iter_mut().zip(copied).for_each(|(set, operands)| set.push(operands));
        hosts.push((w, m));
    }
    // Results live until the next call on their set, so that those of different sets lie apart.
    let mut results = vec![Vec::new(); sets];
    let mut call = move |set: usize| -> rewire::Result<Vec<Tensor>> {
        let noisy = |(i, (w, m)): (usize, &(Tensor, Tensor))| {
            let (tape, storage) = (&mut Tape::new(Mode::Bf16), ops::operand_type(Mode::Bf16, w));
            ops::noisy_weight(tape, w, &alpha, Some(m), &stream(i), storage)
        };
        let all = all[set].iter().enumerate().map(noisy).collect::<rewire::Result<_>>()?;
        results[set] = all;
        Ok(results[set].clone())
    };
    let (mut got, mut want) = (Vec::new(), Vec::new());
    for (i, (y, (w, m))) in call(0)?.iter().zip(&hosts).enumerate() {
        let n = w.len() as f64;
        let mean = w.iter().map(|w| f64::from(*w)).sum::<f64>() / n;
        let square = w.iter().map(|w| (f64::from(*w) - mean).powi(2)).sum::<f64>();
        let sigma = (square / (n - 1.0)).sqrt();
        let stream = stream(i);
        got.extend(floats(y)?);
        want.extend((0..w.len()).map(|at| match m[at] {
            0 => 0.0,
            _ => f64::from(w[at]) + 0.25 * sigma * f64::from(stream.normal(at)),
        }));
    }
    let error = compare(&got, &want, Mode::Bf16.tolerance())?;
    Ok(Prepared {
        call: Box::new(move |set| call(set).map(drop)),
        sets,
        error,
        flop: [0.0; 2],
        bytes,
        weight: None,
        how: format!("{} layers, three launches each", shapes.len()),
    })
}

pub fn prune(small: bool, device: &Device) -> Result<Prepared> {
    let len = weights(small);
    let (host, count) = (values("w", len), len - (DENSITY * len as f64) as usize);
    let weight = Tensor::from_vec(host.clone(), &[len], device)?;
    let ones = Tensor::from_vec(vec![1u8; len], &[len], device)?;
    let sets = sets(5 * len, small);
    let (w, mut masks) = (copies(&weight, sets)?, copies(&ones, sets)?);
    let mut call = move |set: usize| -> rewire::Result<Tensor> {
        masks[set].copy_front(&ones)?;
        ops::prune_smallest(&mut masks[set], &w[set], count)?;
        Ok(masks[set].clone())
    };
    let mut order: Vec<(u32, usize)> =
        host.iter().enumerate().map(|(i, w)| (w.abs().to_bits(), i)).collect();
    order.select_nth_unstable(count);
    let mut want = vec![1u8; len];
    order[..count].iter().for_each(|&(_, i)| want[i] = 0);
    ensure!(call(0)?.to_vec::<u8>()? == want, "other weights than a full sort keeps");
    Ok(Prepared {
        call: Box::new(move |set| call(set).map(drop)),
        sets,
        error: 0.0,
        flop: [0.0; 2],
        // One pass over the weights, and the mask written.
        bytes: 5 * len,
        weight: None,
        how: "the mask is filled with ones in each call".into(),
    })
}

pub fn sgd(small: bool, masked: bool, device: &Device) -> Result<Prepared> {
    let len = weights(small);
    let (w_host, g_host) = (values("w", len), values("g", len));
    let m_host = if masked { mask(len) } else { vec![1; len] };
    let w_host: Vec<f32> = w_host.iter().zip(&m_host).map(|(w, m)| w * f32::from(*m)).collect();
    let step = SgdStep { lr: 1e-3, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    // By layer, in so many copies.
    let buffers = if masked { 13 * len } else { 12 * len };
    let sets = sets(buffers, small);
    let (mut all, mut from) = (vec![Vec::new(); sets], 0);
    for shape in layers(small) {
        let here = from..from + shape.iter().product::<usize>();
        from = here.end;
        let upload = |data: &[f32]| Tensor::from_vec(data[here.clone()].to_vec(), &shape, device);
        let (w, g) = (upload(&w_host)?, upload(&g_host)?);
        let mask = Tensor::from_vec(m_host[here.clone()].to_vec(), &shape, device)?;
        let copied =
            [copies(&w, sets)?, copies(&g, sets)?, copies(&g, sets)?, copies(&mask, sets)?];
        for (i, set) in all.iter_mut().enumerate() {
            set.push(copied.each_ref().map(|copies| copies[i].clone()));
        }
    }
    let mut call = move |set: usize| -> rewire::Result<Vec<Tensor>> {
        let layers = all[set].iter_mut().map(|layer| parameter(layer, masked));
        ops::masked_sgd(&mut layers.collect::<Vec<_>>(), &step)?;
        Ok(all[set].iter().map(|[w, ..]| w.clone()).collect())
    };
    let [lr, momentum, decay] = [step.lr, step.momentum, step.weight_decay].map(f64::from);
    let want: Vec<f64> = (0..len)
        .map(|i| {
            let (w, g) = (f64::from(w_host[i]), f64::from(g_host[i]));
            let g = g + decay * w;
            let v = momentum * f64::from(g_host[i]) + g;
            f64::from(m_host[i]) * (w - lr * (g + momentum * v))
        })
        .collect();
    let mut got = Vec::new();
    for w in call(0)? {
        got.extend(w.to_vec::<f32>()?);
    }
    let error = compare(&got, &want, 1e-6)?;
    Ok(Prepared {
        call: Box::new(move |set| call(set).map(drop)),
        sets,
        error,
        flop: [0.0; 2],
        // w, v and g are read, w and v written; a byte of mask.
        bytes: buffers + 8 * len,
        weight: None,
        how: format!("{} layers in one launch, in place", LAYERS.len()),
    })
}

/// Of weights, momentum, gradient and mask.
fn parameter([w, v, g, mask]: &mut [Tensor; 4], masked: bool) -> SgdParameter<'_> {
    let (mask, z, rho, first) = (masked.then_some(&*mask), None, 0.0, false);
    SgdParameter { w, v, g, mask, z, rho, first }
}
