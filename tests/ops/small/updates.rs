//! What moves weights and pixels: SGD, Adam, PGD, noise.

use super::{
    Fill, Operand, Random, assert_close, assert_same_bits, cases, check_seeded, devices, run, wide,
};
use rewire::ops::{self, AdamStep, SgdParameter, SgdStep};
use rewire::{DType, Device, Mode, Tape, Tensor};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateCase {
    name: String,
    shape: Vec<usize>,
    #[serde(default)]
    fill: Fill,
    /// Share of ones in the mask; without it there is no mask.
    density: Option<f32>,
    /// Pull towards z; without it there is no z.
    rho: Option<f32>,
    momentum: f32,
    nesterov: bool,
    weight_decay: f32,
}

/// A parameter with three gradients and what holds it.
struct Update {
    w: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    mask: Option<Vec<u8>>,
    z: Option<Vec<f32>>,
}

impl UpdateCase {
    fn draw(&self, random: &mut Random) -> Update {
        let len = self.shape.iter().product();
        Update {
            w: random.fill(self.fill, len),
            gradients: (0..3).map(|_| random.fill(self.fill, len)).collect(),
            mask: self.density.map(|density| random.mask(len, density)),
            z: self.rho.map(|_| random.normals(len)),
        }
    }
}

impl Update {
    /// g + weight_decay·w + rho·(w⊙m − z)⊙m at element i, and m.
    fn gradient(&self, case: &UpdateCase, step: usize, w: &[f64], i: usize) -> (f64, f64) {
        let m = self.mask.as_ref().map_or(1.0, |mask| f64::from(mask[i]));
        let pull = self.z.as_ref().map_or(0.0, |z| (w[i] * m - f64::from(z[i])) * m);
        let rho = f64::from(case.rho.unwrap_or(0.0));
        let g = f64::from(self.gradients[step][i]);
        (g + f64::from(case.weight_decay) * w[i] + rho * pull, m)
    }

    /// Runs `step(t, w, g, mask, z)` three times on the device.
    fn on(
        &self,
        shape: &[usize],
        device: &Device,
        mut step: impl FnMut(usize, &mut Tensor, &Tensor, Option<&Tensor>, Option<&Tensor>),
    ) -> Vec<f32> {
        let f32s = |x: &Vec<f32>| Tensor::from_vec(x.clone(), shape, device).unwrap();
        let mask = self.mask.as_ref().map(|m| Tensor::from_vec(m.clone(), shape, device).unwrap());
        let (mut w, z) = (f32s(&self.w), self.z.as_ref().map(f32s));
        for (t, g) in self.gradients.iter().enumerate() {
            step(t, &mut w, &f32s(g), mask.as_ref(), z.as_ref());
        }
        w.to_vec().unwrap()
    }

    fn assert_pruned_are_zero(&self, what: &str, w: &[f32]) {
        for (i, _) in self.mask.iter().flatten().enumerate().filter(|(_, m)| **m == 0) {
            assert_eq!(w[i].to_bits(), 0, "{what}: pruned weight {i}");
        }
    }
}

#[test]
fn masked_sgd() {
    let random = &mut Random::new();
    for case in cases::<UpdateCase>(include_str!("../../cases/masked_sgd.toml")) {
        let update = case.draw(random);
        let (mut w, mut v) = (wide(&update.w), vec![0.0; update.w.len()]);
        let (lr, momentum) = (f64::from(0.05f32), f64::from(case.momentum));
        for t in 0..3 {
            for i in 0..w.len() {
                let (g, m) = update.gradient(&case, t, &w, i);
                v[i] = if t == 0 { g } else { momentum * v[i] + g };
                let direction = if case.nesterov { g + momentum * v[i] } else { v[i] };
                w[i] = m * (w[i] - lr * direction);
            }
        }
        let mut bits = None;
        for device in devices() {
            let mut velocity = Tensor::zeros(&case.shape, rewire::DType::F32, &device).unwrap();
            let got = update.on(&case.shape, &device, |t, w, g, mask, z| {
                let step = SgdStep {
                    lr: 0.05,
                    momentum: case.momentum,
                    nesterov: case.nesterov,
                    weight_decay: case.weight_decay,
                };
                let (v, rho) = (&mut velocity, case.rho.unwrap_or(0.0));
                let parameter = SgdParameter { w, v, g, mask, z, rho, first: t == 0 };
                ops::masked_sgd(&mut [parameter], &step).unwrap();
            });
            let what = format!("masked_sgd, {} on {device}", case.name);
            let velocity = velocity.to_vec().unwrap();
            assert_close(&what, &got, &w, 1e-5);
            assert_close(&what, &velocity, &v, 1e-5);
            update.assert_pruned_are_zero(&what, &got);
            let (first_w, first_v) = bits.get_or_insert((got.clone(), velocity.clone()));
            assert_same_bits(&what, &got, first_w);
            assert_same_bits(&what, &velocity, first_v);
        }
    }
}

#[test]
fn masked_adam() {
    let random = &mut Random::new();
    for case in cases::<UpdateCase>(include_str!("../../cases/adam.toml")) {
        let update = case.draw(random);
        let mut w = wide(&update.w);
        let (mut first, mut second) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        let (lr, [beta1, beta2], eps) = (f64::from(0.01f32), [0.9, 0.999], f64::from(1e-8f32));
        for t in 0..3 {
            for i in 0..w.len() {
                let (g, m) = update.gradient(&case, t, &w, i);
                first[i] = beta1 * first[i] + (1.0 - beta1) * g;
                second[i] = beta2 * second[i] + (1.0 - beta2) * g * g;
                let power = t as i32 + 1;
                let (mean, square) =
                    (first[i] / (1.0 - beta1.powi(power)), second[i] / (1.0 - beta2.powi(power)));
                w[i] = m * (w[i] - lr * mean / (square.sqrt() + eps));
            }
        }
        let mut bits = None;
        for device in devices() {
            let zeros = || Tensor::zeros(&case.shape, rewire::DType::F32, &device).unwrap();
            let (mut mean, mut square) = (zeros(), zeros());
            let got = update.on(&case.shape, &device, |t, w, g, mask, z| {
                let step = AdamStep {
                    lr: 0.01,
                    betas: [beta1, beta2],
                    eps: 1e-8,
                    weight_decay: case.weight_decay,
                    rho: case.rho.unwrap_or(0.0),
                    t: t as u32 + 1,
                };
                ops::masked_adam(w, [&mut mean, &mut square], g, mask, z, &step).unwrap();
            });
            let what = format!("masked_adam, {} on {device}", case.name);
            assert_close(&what, &got, &w, 1e-5);
            assert_close(&what, &mean.to_vec().unwrap(), &first, 1e-5);
            assert_close(&what, &square.to_vec().unwrap(), &second, 1e-5);
            update.assert_pruned_are_zero(&what, &got);
            assert_same_bits(&what, &got, bits.get_or_insert(got.clone()));
        }
    }
}

#[test]
fn an_update_leaves_clones_as_they_were() {
    for device in devices() {
        let tensor = |x: f32| Tensor::from_vec(vec![x; 5], &[5], &device).unwrap();
        let (mut w, mut v, g) = (tensor(1.0), tensor(2.0), tensor(3.0));
        let (kept_w, kept_v) = (w.clone(), v.clone());
        let step = SgdStep { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.0 };
        let (w_mut, v_mut, g) = (&mut w, &mut v, &g);
        let (mask, z, rho, first) = (None, None, 0.0, false);
        let parameter = SgdParameter { w: w_mut, v: v_mut, g, mask, z, rho, first };
        ops::masked_sgd(&mut [parameter], &step).unwrap();
        assert_ne!(w.to_vec::<f32>().unwrap(), [1.0; 5]);
        assert_eq!(kept_w.to_vec::<f32>().unwrap(), [1.0; 5]);
        assert_eq!(kept_v.to_vec::<f32>().unwrap(), [2.0; 5]);
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PgdCase {
    name: String,
    shape: Vec<usize>,
    #[serde(default)]
    gradient: Fill,
    eps: f32,
    step_size: f32,
}

#[test]
fn pgd_step() {
    let random = &mut Random::new();
    for case in cases::<PgdCase>(include_str!("../../cases/pgd_step.toml")) {
        let len = case.shape.iter().product::<usize>();
        let x0 = random.fill(Fill::Pixels, len);
        let gradients = (0..4).map(|_| random.fill(case.gradient, len)).collect::<Vec<_>>();
        let (rng, eps) = (random.stream(), case.eps);
        let mut bits = None;
        for device in devices() {
            let what = format!("pgd, {} on {device}", case.name);
            let tensor = |x: &[f32]| Tensor::from_vec(x.to_vec(), &case.shape, &device).unwrap();
            let mut x = ops::pgd_start(&tensor(&x0), eps, &rng, 11).unwrap();
            let start = x.to_vec::<f32>().unwrap();
            let want = (0..len)
                .map(|i| {
                    let noise = f64::from(eps) * (2.0 * f64::from(rng.uniform(11 + i)) - 1.0);
                    (f64::from(x0[i]) + noise).clamp(0.0, 1.0)
                })
                .collect::<Vec<_>>();
            assert_close(&what, &start, &want, 1e-5);
            let mut reached = vec![start];
            for g in &gradients {
                ops::pgd_step(&mut x, &tensor(&x0), &tensor(g), eps, case.step_size).unwrap();
                let after = x.to_vec::<f32>().unwrap();
                let before = reached.last().unwrap();
                for i in 0..len {
                    let sign = if g[i] > 0.0 {
                        1.0
                    } else if g[i] < 0.0 {
                        -1.0
                    } else {
                        0.0
                    };
                    let (lo, hi) = ((x0[i] - eps).max(0.0), (x0[i] + eps).min(1.0));
                    let want = (before[i] + case.step_size * sign).max(lo).min(hi);
                    assert_eq!(after[i], want, "{what}: pixel {i}");
                }
                reached.push(after);
            }
            for x in reached.iter().flat_map(|x| x.iter().zip(&x0)) {
                let (x, x0) = (*x.0, *x.1);
                assert!((0.0..=1.0).contains(&x), "{what}: {x} outside [0, 1]");
                assert!(f64::from(x - x0).abs() <= f64::from(eps) + 6e-8, "{what}: {x} from {x0}");
            }
            let all = reached.concat();
            assert_same_bits(&what, &all, bits.get_or_insert(all.clone()));
        }
    }
}

#[test]
fn pgd_l2_step() {
    let random = &mut Random::new();
    for case in cases::<PgdCase>(include_str!("../../cases/pgd_l2_step.toml")) {
        let len = case.shape.iter().product::<usize>();
        let size = len / case.shape[0].max(1);
        let (x0, x) = (random.fill(Fill::Pixels, len), random.fill(Fill::Pixels, len));
        let mut g = random.fill(case.gradient, len);
        // The last image has no gradient, or one that is no number.
        if case.shape[0] > 2 {
            g[len - size..].fill(0.0);
            g[len - 1] = [0.0, f32::NAN, f32::INFINITY][len % 3];
        }
        let (eps, step_size) = (f64::from(case.eps), f64::from(case.step_size));
        let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let mut want = Vec::new();
        for image in 0..len.checked_div(size).unwrap_or(0) {
            let row = |v: &[f32]| -> Vec<f64> {
                v[image * size..][..size].iter().map(|&v| f64::from(v)).collect()
            };
            let (x0, x, g) = (row(&x0), row(&x), row(&g));
            let length = norm(&g);
            let factor = if length > 0.0 && length < 1e300 { step_size / length } else { 0.0 };
            let push = |g: f64| if factor == 0.0 { 0.0 } else { factor * g };
            let d: Vec<f64> = (0..size).map(|i| x[i] - x0[i] + push(g[i])).collect();
            let shrink = if norm(&d) > eps { eps / norm(&d) } else { 1.0 };
            want.extend((0..size).map(|i| (x0[i] + shrink * d[i]).clamp(0.0, 1.0)));
        }
        for device in devices() {
            let what = format!("pgd_l2_step, {} on {device}", case.name);
            let tensor = |x: &[f32]| Tensor::from_vec(x.to_vec(), &case.shape, &device).unwrap();
            let mut moved = tensor(&x);
            ops::pgd_l2_step(&mut moved, &tensor(&x0), &tensor(&g), case.eps, case.step_size)
                .unwrap();
            let got = moved.to_vec::<f32>().unwrap();
            assert_close(&what, &got, &want, 1e-6);
            for (image, from) in got.chunks(size.max(1)).zip(x0.chunks(size.max(1))) {
                let d: Vec<f64> = image.iter().zip(from).map(|(a, b)| f64::from(a - b)).collect();
                assert!(norm(&d) <= eps * (1.0 + 1e-6) + 1e-7, "{what}: {}", norm(&d));
                assert!(image.iter().all(|x| (0.0..=1.0).contains(x)), "{what}");
            }
        }
    }
}

#[test]
fn a_random_start_does_not_depend_on_batches() {
    let random = &mut Random::new();
    let (x0, rng) = (random.fill(Fill::Pixels, 91), random.stream());
    for device in devices() {
        let start = |range: std::ops::Range<usize>| {
            let x = x0[range.clone()].to_vec();
            let x = Tensor::from_vec(x, &[range.len()], &device).unwrap();
            let x = ops::pgd_start(&x, 0.1, &rng, 1000 + range.start as u64).unwrap();
            x.to_vec::<f32>().unwrap()
        };
        let parts = [start(0..7), start(7..8), start(8..50), start(50..91)].concat();
        assert_same_bits("parts", &start(0..91), &parts);
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NoiseCase {
    name: String,
    shape: Vec<usize>,
    #[serde(default)]
    fill: Fill,
    /// α: one number, or one an output channel.
    by_channel: bool,
    density: Option<f32>,
}

#[test]
fn noisy_weight() {
    let random = &mut Random::new();
    for case in cases::<NoiseCase>(include_str!("../../cases/noise.toml")) {
        let len = case.shape.iter().product::<usize>();
        let w = (random.fill(case.fill, len), case.shape.clone());
        let groups = if case.by_channel { case.shape[0] } else { 1 };
        let alpha = (random.normals(groups), vec![groups]);
        let mask = case.density.map(|density| random.mask(len, density));
        let rng = random.stream();
        let n = (0..len).map(|i| f64::from(rng.normal(i))).collect::<Vec<_>>();
        // σ is a constant of the gradient, so the reference takes it from the clean weights.
        let sigma = deviation(&wide(&w.0));
        let op = |tape: &mut Tape, x: &[Tensor]| {
            let mask = mask.as_ref();
            let mask = mask.map(|m| Tensor::from_vec(m.clone(), &case.shape, &x[0].device()));
            ops::noisy_weight(tape, &x[0], &x[1], mask.transpose()?.as_ref(), &rng, DType::F32)
        };
        let reference = |x: &[Vec<f64>]| {
            let one = |i: usize| {
                let m = mask.as_ref().map_or(1.0, |mask| f64::from(mask[i]));
                m * (x[0][i] + x[1][i / (len / groups)] * sigma * n[i])
            };
            (0..len).map(one).collect()
        };
        let operands: [Operand; 2] = [w, alpha];
        let with_noise = |(seed, n): (f32, &f64)| seed + 2.0 * *n as f32;
        let seed = random.normals(len).into_iter().zip(&n).map(with_noise).collect::<Vec<_>>();
        check_seeded(&format!("noisy_weight, {}", case.name), &operands, &seed, op, reference);
        let zero = [operands[0].clone(), (vec![0.0; groups], vec![groups])];
        for device in devices() {
            let (clean, _) = run(&device, &zero, op, None);
            for (i, (clean, w)) in clean.iter().zip(&operands[0].0).enumerate() {
                let pruned = mask.as_ref().is_some_and(|mask| mask[i] == 0);
                assert_eq!(*clean, if pruned { 0.0 } else { *w }, "α = 0 on {device}");
            }
        }
    }
}

fn deviation(w: &[f64]) -> f64 {
    let mean = w.iter().sum::<f64>() / w.len() as f64;
    (w.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / (w.len() - 1) as f64).sqrt()
}

#[test]
fn noise_has_the_bits_of_the_cpu_and_another_stream_other_noise() {
    let random = &mut Random::new();
    // ±1: σ is the same f32 however it is summed.
    let w = (0..1000).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect::<Vec<f32>>();
    let (rng, other) = (random.stream(), random.stream());
    let mut bits = None;
    for device in devices() {
        let tensor =
            |x: &[f32], shape: &[usize]| Tensor::from_vec(x.to_vec(), shape, &device).unwrap();
        let noisy = |rng| {
            let (w, alpha) = (tensor(&w, &[10, 100]), tensor(&[0.25], &[1]));
            ops::noisy_weight(&mut Tape::new(Mode::F32), &w, &alpha, None, rng, DType::F32).unwrap()
        };
        let y = noisy(&rng).to_vec::<f32>().unwrap();
        assert_same_bits("noise", &y, bits.get_or_insert(y.clone()));
        let others = noisy(&other).to_vec::<f32>().unwrap();
        assert!(y.iter().zip(&others).all(|(a, b)| a != b));
    }
}

/// The noisy weight in the type that the convolution reads gives what the convolution makes of an f32 one.
#[test]
fn noisy_operands_have_the_bits_of_rounded_weights() {
    let random = &mut Random::new();
    for (shape, whole) in [([16, 3, 3, 8], true), ([5, 1, 1, 16], true), ([8, 3, 3, 6], false)] {
        let [k, _, _, c] = shape;
        let (pixels, weights) =
            (random.normals(2 * 5 * 5 * c), random.normals(shape.iter().product()));
        let (coefficients, rng) = (random.normals(k), random.stream());
        let mask = random.mask(weights.len(), 0.5);
        for device in devices() {
            let tensor = |values: &[f32], shape: &[usize]| {
                Tensor::from_vec(values.to_vec(), shape, &device).unwrap()
            };
            let (x, w) = (tensor(&pixels, &[2, 5, 5, c]), tensor(&weights, &shape));
            let alpha = tensor(&coefficients, &[k]);
            let mask = Tensor::from_vec(mask.clone(), &shape, &device).unwrap();
            let storage = ops::operand_type(Mode::Bf16, &w);
            let is_gpu = matches!(device, Device::Gpu(_));
            assert_eq!(storage == DType::Bf16, is_gpu && whole, "{shape:?} on {device}");
            assert_eq!(ops::operand_type(Mode::Tf32, &w), DType::F32);
            let run = |storage| {
                let mut tape = Tape::new(Mode::Bf16);
                [&x, &w, &alpha].into_iter().for_each(|operand| tape.watch(operand));
                let noisy =
                    ops::noisy_weight(&mut tape, &w, &alpha, Some(&mask), &rng, storage).unwrap();
                assert_eq!(noisy.dtype(), storage);
                let y = ops::conv2d(&mut tape, &x, &noisy, None, 1, 1).unwrap();
                let found = tape.backward(&y, y.detach()).unwrap();
                let gradients = [&x, &w, &alpha].map(|operand| found.get(operand).unwrap().clone());
                [[y].as_slice(), &gradients].concat().into_iter().map(|t| t.to_vec().unwrap())
            };
            for (got, want) in run(storage).zip(run(DType::F32)) {
                let (got, want): (Vec<f32>, Vec<f32>) = (got, want);
                assert_same_bits(&format!("{shape:?} on {device}"), &got, &want);
            }
        }
    }
}

/// One call for many parameters gives the bits of a call for each.
#[test]
fn parameters_are_stepped_together_as_alone() {
    let random = &mut Random::new();
    let lens = [3, 0, 8192, 8193, 20000, 1, 64, 0];
    let mut draw = |len| ([(); 4].map(|()| random.normals(len)), random.mask(len, 0.5));
    let drawn: Vec<_> = lens.iter().map(|&len| draw(len)).collect();
    let step = SgdStep { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.01 };
    for device in devices() {
        let f32s =
            |values: &Vec<f32>| Tensor::from_vec(values.clone(), &[values.len()], &device).unwrap();
        let tensors = || -> Vec<_> {
            let each = drawn.iter().map(|(values, mask)| {
                (
                    values.each_ref().map(f32s),
                    Tensor::from_vec(mask.clone(), &[mask.len()], &device).unwrap(),
                )
            });
            each.collect()
        };
        let (mut together, mut alone) = (tensors(), tensors());
        fn parameter((i, (values, mask)): (usize, &mut ([Tensor; 4], Tensor))) -> SgdParameter<'_> {
            let [w, v, g, z] = values;
            let (mask, z) = ((i % 2 == 0).then_some(&*mask), (i % 3 != 0).then_some(&*z));
            SgdParameter { w, v, g, mask, z, rho: 0.1 * i as f32, first: i % 4 == 3 }
        }
        let mut all: Vec<_> = together.iter_mut().enumerate().map(parameter).collect();
        ops::masked_sgd(&mut all, &step).unwrap();
        for one in alone.iter_mut().enumerate().map(parameter) {
            ops::masked_sgd(&mut [one], &step).unwrap();
        }
        for (i, ((got, _), (want, _))) in together.iter().zip(&alone).enumerate() {
            for (got, want) in got[..2].iter().zip(want) {
                let (got, want) = (got.to_vec().unwrap(), want.to_vec().unwrap());
                assert_same_bits(&format!("parameter {i} on {device}"), &got, &want);
            }
            assert!(got[0].to_vec::<f32>().unwrap() != drawn[i].0[0] || lens[i] == 0);
        }
        let mut short = tensors();
        short[2].0[2] = f32s(&vec![0.0; 5]);
        let mut all: Vec<_> = short.iter_mut().enumerate().map(parameter).collect();
        assert!(ops::masked_sgd(&mut all, &step).unwrap_err().to_string().contains("[8192]"));
        assert_same_bits("unchanged", &short[0].0[0].to_vec().unwrap(), &drawn[0].0[0]);
    }
}
