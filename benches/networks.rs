//! Whole networks as compiled plans, a training step, and on a GPU the kernels that only plans use.

use crate::{
    ACTIVATIONS, CONVOLUTIONS, DENSITY, calls, check, convolution, device, tensor, values,
};
use criterion::{BenchmarkId, Criterion, Throughput};
use rewire::infer::{Algorithm, Choice, Plan};
use rewire::nn::{ArchSpec, Model, Weights};
use rewire::ops::{
    self, FilterLists, InferConv2d, PackedFilter, PackedSparseFilter, SparseProduct,
};
use rewire::{Device, Mode, Seed, Tape, Tensor, models};

/// Networks, and the kept share of their weights.
const NETWORKS: [(&str, &str, f32); 6] = [
    ("vgg16", "vgg16", 1.0),
    ("vgg16_irregular", "vgg16", DENSITY),
    ("vgg16_channels", "vgg16:width=0.2816,divisor=8", 1.0),
    ("resnet18", "resnet18", 1.0),
    ("resnet18_irregular", "resnet18", DENSITY),
    ("resnet18_channels", "resnet18:width=0.42,divisor=8", 1.0),
];

/// A network with initial values of which uniformly drawn ones are kept.
fn network(arch: &str, density: f32, device: &Device) -> Model {
    let arch = ArchSpec::parse(arch).expect("an architecture").resolve();
    let mut model = models::initialised(arch, Seed(1), device).expect("a network");
    for name in model.prunable() {
        let weight = &model.params()[&name];
        let drawn = values(&name, weight.len());
        let pairs = weight.to_vec::<f32>().unwrap().into_iter().zip(drawn);
        let kept = pairs.map(|(w, u)| if u + 0.5 < density { w } else { 0.0 }).collect();
        let kept = Tensor::from_vec::<f32>(kept, weight.shape(), device).unwrap();
        model.params_mut().insert(name, kept);
    }
    model
}

/// The plans of whole networks in f32: dense and what is fastest here, checked against the uncompiled network.
pub(super) fn plans(c: &mut Criterion) {
    let (device, mut group) = (device(), c.benchmark_group("plan"));
    for (name, arch, density) in NETWORKS {
        let model = network(arch, density, &device);
        for batch in [1, 32] {
            let pixels = values("images", batch * 32 * 32 * 3).iter().map(|x| x + 0.5).collect();
            let x = Tensor::from_vec::<f32>(pixels, &[batch, 32, 32, 3], &device).unwrap();
            let (mut tape, weights) = (Tape::new(Mode::F32), Weights::default());
            let logits =
                model.forward_eval(&mut tape, &x, &weights).unwrap().to_vec::<f32>().unwrap();
            let want: Vec<f64> = logits.into_iter().map(f64::from).collect();
            let ways = [("dense", Choice::Forced(Algorithm::Dense)), ("fastest", Choice::Measured)];
            group.throughput(Throughput::Elements(batch as u64));
            for (way, choice) in ways {
                let mut plan = Plan::build(&model, batch, Mode::F32, choice).unwrap();
                check(name, &plan.run(&x).unwrap().to_vec().unwrap(), &want, 2e-5);
                group.bench_function(BenchmarkId::new(format!("{name}_{way}"), batch), |b| {
                    calls(b, &device, || plan.run(&x));
                });
            }
        }
    }
}

/// Forward, cross-entropy and backward of a quarter as wide a network.
pub(super) fn train_step(c: &mut Criterion) {
    let (device, mut group) = (device(), c.benchmark_group("train_step"));
    for arch in ["vgg16:width=0.25", "resnet18:width=0.25"] {
        let model = network(arch, 1.0, &device);
        let x = tensor("images", &[32, 32, 32, 3], &device);
        let labels = (0..32).map(|i| i % 10).collect();
        let labels = Tensor::from_vec::<i32>(labels, &[32], &device).unwrap();
        let seed = Tensor::from_vec(vec![1.0f32], &[1], &device).unwrap();
        group.throughput(Throughput::Elements(32));
        group.bench_function(arch, |b| {
            calls(b, &device, || {
                let mut model = model.clone();
                let mut tape = Tape::new(Mode::F32);
                model.watch(&mut tape);
                let weights = Weights::default();
                let logits = model.forward_train(&mut tape, &x, &weights)?;
                let loss = ops::softmax_xent(&mut tape, &logits, &labels)?;
                tape.backward(&loss, seed.clone())
            });
        });
    }
}

/// Convolutions of plans on a GPU: tiles on tensor cores, and 2:4 sparsity by permuted columns.
pub(super) fn inference_kernels(c: &mut Criterion) {
    let device = device();
    if matches!(device, Device::Cpu) {
        return;
    }
    for shape @ [n, h, channels, k] in CONVOLUTIONS {
        let (x, w) = (
            tensor("x", &[n, h, h, channels], &device),
            tensor("w", &[k, 3, 3, channels], &device),
        );
        let bias = Tensor::zeros(&[k], rewire::DType::F32, &device).unwrap();
        let pixels = x.to_vec::<f32>().unwrap();
        let want = convolution(&pixels, &w.to_vec().unwrap(), shape);
        for mode in Mode::ALL {
            let storage = mode.storage();
            let mut rows = Tensor::zeros(&[n, h, h, channels], storage, &device).unwrap();
            ops::infer_input(&x, None, &mut rows).unwrap();
            let filter = PackedFilter::new(&w, &bias, mode, None).unwrap();
            let conv = InferConv2d { filter, stride: 1, padding: 1, relu: false, pool: false };
            let config = conv.configs(rows.shape()).unwrap()[0];
            let mut y = Tensor::zeros(&[n, h, h, k], storage, &device).unwrap();
            conv.run(&rows, None, config, &mut y).unwrap();
            check("infer_conv2d", &floats(&y), &want, mode.tolerance());
            let mut group = c.benchmark_group("infer_conv2d");
            group.throughput(Throughput::Elements((n * h * h * k * 9 * channels) as u64));
            group.bench_function(BenchmarkId::new(mode.to_string(), format!("{shape:?}")), |b| {
                calls(b, &device, || conv.run(&rows, None, config, &mut y));
            });
        }
        let drawn = values("mask", w.len());
        let pairs = w.to_vec::<f32>().unwrap().into_iter().zip(drawn);
        let kept: Vec<f32> = pairs.map(|(w, u)| if u + 0.5 < DENSITY { w } else { 0.0 }).collect();
        let want = convolution(&pixels, &kept, shape);
        let kept = Tensor::from_vec(kept, w.shape(), &device).unwrap();
        let product = SparseProduct::TwoFour;
        let filter = PackedSparseFilter::new(&kept, Some(&bias), [h, h], 1, 1, product).unwrap();
        sparse(c, "infer_sparse_conv2d", &x, shape, Mode::Bf16, &want, |x, y| {
            ops::infer_sparse_conv2d(x, &filter, None, false, false, y)
        });
        for mode in Mode::ALL {
            let lists = FilterLists::new(&kept, &bias, n, [h, h], [1, 1], mode).unwrap();
            sparse(c, "infer_sparse_lists", &x, shape, mode, &want, |x, y| {
                ops::infer_sparse_lists(x, &lists, None, false, false, y)
            });
        }
    }
    let x = tensor("x", &ACTIVATIONS, &device);
    let mut rows = Tensor::zeros(&ACTIVATIONS, rewire::DType::Bf16, &device).unwrap();
    ops::infer_input(&x, None, &mut rows).unwrap();
    let mut y = rows.clone();
    ops::infer_relu(&rows, &mut y).unwrap();
    let want: Vec<f64> = floats(&rows).iter().map(|x| f64::from(x.max(0.0))).collect();
    check("infer_layers", &floats(&y), &want, 1e-12);
    let mut group = c.benchmark_group("infer_layers");
    group.throughput(Throughput::Bytes(4 * rows.len() as u64));
    group.bench_function("relu_bf16", |b| {
        calls(b, &device, || ops::infer_relu(&rows, &mut y));
    });
}

/// A sparse convolution over the planes of `x`, compared with `want`.
fn sparse(
    c: &mut Criterion,
    name: &str,
    x: &Tensor,
    shape: [usize; 4],
    mode: Mode,
    want: &[f64],
    run: impl Fn(&Tensor, &mut Tensor) -> rewire::Result<()>,
) {
    let ([n, h, channels, k], device, storage) = (shape, x.device(), mode.storage());
    let zeros = |shape: &[usize]| Tensor::zeros(shape, storage, &device).unwrap();
    let planes_of = |channels| ops::planes_shape([n, h, h, channels], storage);
    let (mut rows, mut planes) = (zeros(&[n, h, h, channels]), zeros(&planes_of(channels)));
    ops::infer_input(x, None, &mut rows).unwrap();
    ops::rows_to_planes(&rows, &mut planes).unwrap();
    let (mut y, mut results) = (zeros(&planes_of(k)), zeros(&[n, h, h, k]));
    run(&planes, &mut y).unwrap();
    ops::planes_to_rows(&y, &mut results).unwrap();
    check(name, &floats(&results), want, mode.tolerance());
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements((n * h * h * k * 9 * channels) as u64));
    group.bench_function(BenchmarkId::new(mode.to_string(), format!("{shape:?}")), |b| {
        calls(b, &device, || run(&planes, &mut y));
    });
}

/// Values in storage of either type.
fn floats(x: &Tensor) -> Vec<f32> {
    match x.dtype() {
        rewire::DType::Bf16 => {
            x.to_vec::<half::bf16>().unwrap().into_iter().map(f32::from).collect()
        }
        _ => x.to_vec().unwrap(),
    }
}
