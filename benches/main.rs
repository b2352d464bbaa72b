//! Criterion benchmarks: one group per kernel family, and whole networks. Every result is checked against float64 before it is timed.
//!
//! `REWIRE_BENCH_DEVICE` names the device (default `auto`); `cargo bench -- conv2d` picks a group. On a GPU `cargo bench -- rows`
//! times single kernels at large sizes ([`rows`]).

mod machine;
mod networks;
mod rows;

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group};
use rayon::prelude::*;
use rewire::device::Graph;
use rewire::ops::{self, AdamStep, SgdParameter, SgdStep, SparseFilter};
use rewire::{Device, Mode, Result, Seed, Tape, Tensor};
use std::time::Instant;

fn device() -> Device {
    let name = std::env::var("REWIRE_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    Device::new(&name).expect("REWIRE_BENCH_DEVICE")
}

/// Uniform numbers in [-0.5, 0.5).
fn values(stream: &str, len: usize) -> Vec<f32> {
    let stream = Seed(1).stream(stream, 0, 0);
    (0..len).into_par_iter().map(|index| stream.uniform(index) - 0.5).collect()
}

fn tensor(stream: &str, shape: &[usize], device: &Device) -> Tensor {
    let data = values(stream, shape.iter().product());
    Tensor::from_vec(data, shape, device).expect("a tensor")
}

fn synchronize(device: &Device) {
    if let Device::Gpu(gpu) = device {
        gpu.synchronize().expect("a device that answers");
    }
}

/// Calls that a graph holds.
const CALLS: u64 = 32;

/// Times a call with the device's work in it. Where the device records graphs, and the call reads nothing back, it replays a
/// graph of many: one alone would be timed with its launch and the wait for it, which are longer than many a kernel.
fn calls<T>(b: &mut Bencher, device: &Device, mut call: impl FnMut() -> Result<T>) {
    let graph = match timed_by_graph(device) {
        true => {
            // Kernels that are compiled on first use are there when the recording begins.
            call().expect("a call");
            Graph::record(device, || (0..CALLS).try_for_each(|_| call().map(drop))).ok()
        }
        false => None,
    };
    let Some((graph, ())) = graph else {
        return b.iter(|| {
            call().expect("a call");
            synchronize(device);
        });
    };
    b.iter_custom(|count| {
        let replays = count.div_ceil(CALLS);
        synchronize(device);
        let start = Instant::now();
        (0..replays).for_each(|_| graph.launch().expect("a replay"));
        synchronize(device);
        start.elapsed().mul_f64(count as f64 / (replays * CALLS) as f64)
    });
}

/// Whether launches only queue, so that one call's time says little.
fn timed_by_graph(device: &Device) -> bool {
    matches!(device, Device::Gpu(gpu) if gpu.records_graphs())
}

/// Fails unless ‖got − want‖ ≤ tolerance · ‖want‖ and `want` is not all zero.
fn check(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let error = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
    let norm = want.iter().map(|b| b * b).sum::<f64>().sqrt();
    assert!(norm > 0.0 && error <= tolerance * norm, "{what}: error {}", error / norm);
}

/// Same-padded 3×3 convolution of `[n, h, h, c]` by `[k, 3, 3, c]` in float64.
fn convolution(x: &[f32], w: &[f32], [n, h, c, k]: [usize; 4]) -> Vec<f64> {
    let mut y = vec![0.0; n * h * h * k];
    for (position, y) in y.chunks_exact_mut(k).enumerate() {
        let (image, row, column) = (position / (h * h), position / h % h, position % h);
        for (filter, y) in y.iter_mut().enumerate() {
            for (r, s) in (0..3).flat_map(|r| (0..3).map(move |s| (r, s))) {
                let (i, j) = (row + r, column + s);
                if !(1..=h).contains(&i) || !(1..=h).contains(&j) {
                    continue;
                }
                let pixel = ((image * h + i - 1) * h + j - 1) * c;
                let tap = ((filter * 3 + r) * 3 + s) * c;
                let pairs = x[pixel..pixel + c].iter().zip(&w[tap..tap + c]);
                *y += pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            }
        }
    }
    y
}

/// The convolutions of VGG16 that hold most of its work, at a batch of 8.
const CONVOLUTIONS: [[usize; 4]; 3] = [[8, 32, 64, 64], [8, 8, 256, 256], [8, 4, 512, 512]];

/// Kept share of the sparse groups.
const DENSITY: f32 = 0.05;

fn dense(c: &mut Criterion) {
    let (device, mut group) = (device(), c.benchmark_group("conv2d"));
    for shape @ [n, h, channels, k] in CONVOLUTIONS {
        let x = tensor("x", &[n, h, h, channels], &device);
        let w = tensor("w", &[k, 3, 3, channels], &device);
        let want = convolution(&x.to_vec().unwrap(), &w.to_vec().unwrap(), shape);
        group.throughput(Throughput::Elements((n * h * h * k * 9 * channels) as u64));
        for mode in Mode::ALL {
            let forward = || ops::conv2d(&mut Tape::new(mode), &x, &w, None, 1, 1);
            check("conv2d", &forward().unwrap().to_vec().unwrap(), &want, mode.tolerance());
            let id = BenchmarkId::new(format!("forward_{mode}"), format!("{shape:?}"));
            group.bench_function(id, |b| calls(b, &device, forward));
        }
        group.bench_function(BenchmarkId::new("backward_f32", format!("{shape:?}")), |b| {
            calls(b, &device, || {
                let mut tape = Tape::new(Mode::F32);
                tape.watch(&x);
                tape.watch(&w);
                let y = ops::conv2d(&mut tape, &x, &w, None, 1, 1)?;
                tape.backward(&y, y.clone())
            });
        });
    }
}

fn sparse(c: &mut Criterion) {
    let (device, mut group) = (device(), c.benchmark_group("sparse_conv2d"));
    for shape @ [n, h, channels, k] in CONVOLUTIONS {
        let x = tensor("x", &[n, h, h, channels], &device);
        let uniform = values("mask", k * 9 * channels);
        let mask: Vec<u8> = uniform.iter().map(|u| u8::from(u + 0.5 < DENSITY)).collect();
        let all = values("w", k * 9 * channels);
        let kept: Vec<f32> = all.iter().zip(&mask).map(|(w, m)| w * f32::from(*m)).collect();
        let want = convolution(&x.to_vec().unwrap(), &kept, shape);
        let w = Tensor::from_vec(kept, &[k, 3, 3, channels], &device).unwrap();
        let mask = Tensor::from_vec(mask, w.shape(), &device).unwrap();
        let filter = SparseFilter::build(&w, &mask).unwrap();
        let forward = || ops::sparse_conv2d(&mut Tape::new(Mode::F32), &x, &filter, &w, None, 1, 1);
        check("sparse_conv2d", &forward().unwrap().to_vec().unwrap(), &want, 1e-5);
        group.throughput(Throughput::Elements((n * h * h * k * 9 * channels) as u64));
        group.bench_function(BenchmarkId::new("forward_f32", format!("{shape:?}")), |b| {
            calls(b, &device, forward);
        });
        group.bench_function(BenchmarkId::new("build", format!("{shape:?}")), |b| {
            calls(b, &device, || SparseFilter::build(&w, &mask));
        });
    }
}

fn gathered(c: &mut Criterion) {
    let (device, mut group) = (device(), c.benchmark_group("gather_conv2d"));
    for [n, h, channels, k] in CONVOLUTIONS {
        let list: Vec<i32> = (0..channels as i32).step_by(2).collect();
        let x = tensor("x", &[n, h, h, channels], &device);
        let w = tensor("w", &[k, 3, 3, list.len()], &device);
        let pixels = x.to_vec::<f32>().unwrap();
        let read: Vec<f32> = pixels.iter().step_by(2).copied().collect();
        let shape = [n, h, list.len(), k];
        let want = convolution(&read, &w.to_vec().unwrap(), shape);
        let list = Tensor::from_vec(list, &[channels / 2], &device).unwrap();
        let forward = || ops::gather_conv2d(&mut Tape::new(Mode::F32), &x, &w, &list, None, 1, 1);
        check("gather_conv2d", &forward().unwrap().to_vec().unwrap(), &want, 1e-5);
        group.throughput(Throughput::Elements((n * h * h * k * 9 * channels / 2) as u64));
        group.bench_function(BenchmarkId::new("forward_f32", format!("{shape:?}")), |b| {
            calls(b, &device, forward);
        });
    }
}

fn linear(c: &mut Criterion) {
    let (device, mut group) = (device(), c.benchmark_group("linear"));
    let (n, f, o) = (128, 512, 100);
    let (x, w) = (tensor("x", &[n, f], &device), tensor("w", &[o, f], &device));
    let (x_host, w_host) = (x.to_vec::<f32>().unwrap(), w.to_vec::<f32>().unwrap());
    let dot = |i: usize| {
        let (a, b) = (&x_host[i / o * f..][..f], &w_host[i % o * f..][..f]);
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let want: Vec<f64> = (0..n * o).map(dot).collect();
    let forward = || ops::linear(&mut Tape::new(Mode::F32), &x, &w, None);
    check("linear", &forward().unwrap().to_vec().unwrap(), &want, 1e-5);
    group.bench_function("forward_f32", |b| calls(b, &device, forward));
}

/// Activations of VGG16's second convolution at a batch of 32.
const ACTIVATIONS: [usize; 4] = [32, 32, 32, 64];

fn layers(c: &mut Criterion) {
    let device = device();
    let x = tensor("x", &ACTIVATIONS, &device);
    let host = x.to_vec::<f32>().unwrap();
    let bytes = Throughput::Bytes(8 * host.len() as u64);
    let mut run = |family: &str, want: &[f64], forward: &dyn Fn() -> Result<Tensor>| {
        check(family, &forward().unwrap().to_vec().unwrap(), want, 1e-5);
        let mut group = c.benchmark_group(family);
        group.throughput(bytes.clone());
        group.bench_function("forward_f32", |b| calls(b, &device, forward));
    };
    let tape = || Tape::new(Mode::F32);
    let want: Vec<f64> = host.iter().map(|x| f64::from(x.max(0.0))).collect();
    run("elementwise", &want, &|| ops::relu(&mut tape(), &x));

    let full = |value: f32| Tensor::from_vec(vec![value; 64], &[64], &device).unwrap();
    let (mean, var, gamma, beta) = (full(0.1), full(4.0), full(2.0), full(0.5));
    let want: Vec<f64> = host
        .iter()
        .map(|x| (f64::from(*x) - f64::from(0.1f32)) / (4.0 + 1e-5f64).sqrt() * 2.0 + 0.5)
        .collect();
    let normal = || ops::batch_norm_eval(&mut tape(), &x, &gamma, &beta, &mean, &var, 1e-5);
    run("batch_norm", &want, &normal);

    let [n, h, w, k] = ACTIVATIONS;
    let at = |image: usize, y: usize, x: usize, c: usize| host[((image * h + y) * w + x) * k + c];
    let want: Vec<f64> = (0..n * h / 2 * w / 2 * k)
        .map(|i| {
            let (c, x, y, image) =
                (i % k, i / k % (w / 2), i / k / (w / 2) % (h / 2), i / k / (w / 2) / (h / 2));
            let window = [(0, 0), (0, 1), (1, 0), (1, 1)];
            let values = window.map(|(dy, dx)| at(image, 2 * y + dy, 2 * x + dx, c));
            f64::from(values.into_iter().fold(f32::NEG_INFINITY, f32::max))
        })
        .collect();
    run("pool", &want, &|| ops::max_pool(&mut tape(), &x, ops::Window::HALVES));
}

fn updates(c: &mut Criterion) {
    let device = device();
    const LEN: usize = 512 * 9 * 512;
    let shape = [512, 3, 3, 512];
    let (w, g) = (tensor("w", &shape, &device), tensor("g", &shape, &device));
    let (w_host, g_host) = (w.to_vec::<f32>().unwrap(), g.to_vec::<f32>().unwrap());
    let ones = Tensor::from_vec(vec![1u8; LEN], &shape, &device).unwrap();

    let step = SgdStep { lr: 0.5, momentum: 0.9, nesterov: true, weight_decay: 0.25 };
    let update = || -> Result<Tensor> {
        let (mut w, mut v) = (w.clone(), g.clone());
        let (mask, z, rho, first) = (Some(&ones), None, 0.0, true);
        let parameter = SgdParameter { w: &mut w, v: &mut v, g: &g, mask, z, rho, first };
        ops::masked_sgd(&mut [parameter], &step)?;
        Ok(w)
    };
    let want: Vec<f64> = w_host
        .iter()
        .zip(&g_host)
        .map(|(w, g)| {
            let (w, g) = (f64::from(*w), f64::from(*g) + 0.25 * f64::from(*w));
            w - 0.5 * (g + f64::from(0.9f32) * g)
        })
        .collect();
    check("masked_sgd", &update().unwrap().to_vec().unwrap(), &want, 1e-5);
    time(c, "masked_sgd", LEN, &device, &|| update().map(drop));

    let step =
        AdamStep { lr: 0.5, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, rho: 0.0, t: 1 };
    let zeros = Tensor::zeros(&shape, rewire::DType::F32, &device).unwrap();
    let update = || -> Result<Tensor> {
        let (mut w, mut first, mut second) = (w.clone(), zeros.clone(), zeros.clone());
        ops::masked_adam(&mut w, [&mut first, &mut second], &g, Some(&ones), None, &step)?;
        Ok(w)
    };
    // At t = 1 the moments are g and g².
    let moved = |(w, g): (&f32, &f32)| {
        let (w, g) = (f64::from(*w), f64::from(*g));
        w - 0.5 * g / (g.abs() + 1e-8)
    };
    let want: Vec<f64> = w_host.iter().zip(&g_host).map(moved).collect();
    check("adam", &update().unwrap().to_vec().unwrap(), &want, 1e-5);
    time(c, "adam", LEN, &device, &|| update().map(drop));

    let keep = LEN / 20;
    let prune = || -> Result<Tensor> {
        let mut mask = ones.clone();
        ops::prune_smallest(&mut mask, &w, LEN - keep)?;
        Ok(mask)
    };
    let mut order: Vec<usize> = (0..LEN).collect();
    order.sort_by(|&a, &b| w_host[b].abs().total_cmp(&w_host[a].abs()).then(b.cmp(&a)));
    let mut want = vec![0u8; LEN];
    order[..keep].iter().for_each(|&index| want[index] = 1);
    assert!(prune().unwrap().to_vec::<u8>().unwrap() == want, "topk");
    time(c, "topk", LEN, &device, &|| prune().map(drop));

    let alpha = Tensor::from_vec(vec![0.5f32], &[1], &device).unwrap();
    let stream = Seed(1).stream("noise", 0, 0);
    let noise = || {
        let tape = &mut Tape::new(Mode::F32);
        ops::noisy_weight(tape, &w, &alpha, None, &stream, rewire::DType::F32)
    };
    let mean = w_host.iter().map(|w| f64::from(*w)).sum::<f64>() / LEN as f64;
    let square = w_host.iter().map(|w| (f64::from(*w) - mean).powi(2)).sum::<f64>();
    let sigma = (square / (LEN - 1) as f64).sqrt();
    let want: Vec<f64> = w_host
        .iter()
        .enumerate()
        .map(|(index, w)| f64::from(*w) + 0.5 * sigma * f64::from(stream.normal(index)))
        .collect();
    check("noise", &noise().unwrap().to_vec().unwrap(), &want, 1e-5);
    time(c, "noise", LEN, &device, &|| noise().map(drop));

    let squares: f64 = w_host.iter().map(|w| f64::from(*w).powi(2)).sum();
    let distance = || ops::squared_distance(&w, &ones, &zeros);
    assert!((distance().unwrap() - squares).abs() <= 1e-9 * squares, "mask");
    time(c, "mask", LEN, &device, &|| distance().map(drop));
}

fn attack(c: &mut Criterion) {
    let device = device();
    let shape = [128, 32, 32, 3];
    let len: usize = shape.iter().product();
    let pixels: Vec<f32> = values("x", len).iter().map(|x| x + 0.5).collect();
    let x = Tensor::from_vec(pixels.clone(), &shape, &device).unwrap();
    let g = tensor("g", &shape, &device);
    let step = || -> Result<Tensor> {
        let mut moved = x.clone();
        ops::pgd_step(&mut moved, &x, &g, 0.03, 0.01)?;
        Ok(moved)
    };
    let want: Vec<f64> = pixels
        .iter()
        .zip(g.to_vec::<f32>().unwrap())
        .map(|(x, g)| (f64::from(*x) + 0.01 * f64::from(g.signum())).clamp(0.0, 1.0))
        .collect();
    check("pgd_step", &step().unwrap().to_vec().unwrap(), &want, 1e-5);
    time(c, "pgd_step", len, &device, &|| step().map(drop));

    let step = || -> Result<Tensor> {
        let mut moved = x.clone();
        ops::pgd_l2_step(&mut moved, &x, &g, 0.5, 0.1)?;
        Ok(moved)
    };
    let g_host = g.to_vec::<f32>().unwrap();
    let want: Vec<f64> = pixels
        .chunks(len / shape[0])
        .zip(g_host.chunks(len / shape[0]))
        .flat_map(|(x, g)| {
            let length = g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let moved = move |(x, g): (&f32, &f32)| f64::from(*x) + 0.1 * f64::from(*g) / length;
            x.iter().zip(g).map(moved).map(|x| x.clamp(0.0, 1.0))
        })
        .collect();
    check("pgd_l2_step", &step().unwrap().to_vec().unwrap(), &want, 1e-5);
    time(c, "pgd_l2_step", len, &device, &|| step().map(drop));

    let logits = tensor("logits", &[1024, 100], &device);
    let labels: Vec<i32> = (0..1024).map(|i| i % 100).collect();
    let host = logits.to_vec::<f32>().unwrap();
    let want: Vec<f64> = host
        .chunks_exact(100)
        .zip(&labels)
        .map(|(row, label)| {
            let sum: f64 = row.iter().map(|z| f64::from(*z).exp()).sum();
            sum.ln() - f64::from(row[*label as usize])
        })
        .collect();
    let labels = Tensor::from_vec(labels, &[1024], &device).unwrap();
    let loss = || ops::softmax_xent_each(&logits, &labels);
    check("softmax_xent", &loss().unwrap().to_vec().unwrap(), &want, 1e-5);
    time(c, "softmax_xent", host.len(), &device, &|| loss().map(drop));
}

/// A group of one benchmark over `len` elements.
fn time(
    c: &mut Criterion,
    family: &str,
    len: usize,
    device: &Device,
    call: &dyn Fn() -> Result<()>,
) {
    let mut group = c.benchmark_group(family);
    group.throughput(Throughput::Elements(len as u64));
    group.bench_function("f32", |b| calls(b, device, call));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = machine::machine, dense, sparse, gathered, linear, layers, updates, attack, networks::plans, networks::train_step,
        networks::inference_kernels
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(done) = rows::main(&arguments) {
        return done;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    Ok(())
}
