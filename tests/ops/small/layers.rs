//! Layers: elementwise, normalisation, batch norm, pooling, softmax cross-entropy.

use super::{
    Fill, Operand, Random, assert_close, assert_same_bits, cases, check, check_seeded, devices,
    run, wide,
};
use rewire::device::Launch;
use rewire::ops::Window;
use rewire::{Device, ErrorKind, Mode, Tape, Tensor, ops};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    shape: Vec<usize>,
    #[serde(default)]
    fill: Fill,
}

impl Case {
    fn operand(&self, random: &mut Random) -> Operand {
        (random.fill(self.fill, self.shape.iter().product()), self.shape.clone())
    }

    /// Normal numbers, one a channel.
    fn by_channel(&self, random: &mut Random) -> Operand {
        let c = *self.shape.last().unwrap();
        (random.normals(c), vec![c])
    }

    /// Positive numbers, one a channel.
    fn scales(&self, random: &mut Random) -> Operand {
        let (x, shape) = self.by_channel(random);
        (x.iter().map(|x| 0.2 + x.abs()).collect(), shape)
    }
}

fn map(x: &[f64], f: impl Fn(f64) -> f64) -> Vec<f64> {
    x.iter().map(|&x| f(x)).collect()
}

#[test]
fn elementwise() {
    let random = &mut Random::new();
    for case in cases::<Case>(include_str!("../../cases/elementwise.toml")) {
        let (a, b) = (case.operand(random), case.operand(random));
        let name = &case.name;
        // Finite differences do not see the kink at 0: `relu_at_zero` does.
        if !matches!(case.fill, Fill::Zeros | Fill::Denormal | Fill::Ties) {
            let relu = |x: &[Vec<f64>]| map(&x[0], |x| x.max(0.0));
            check(
                random,
                &format!("relu, {name}"),
                std::slice::from_ref(&a),
                |t, x| ops::relu(t, &x[0]),
                relu,
            );
        }
        let add = |x: &[Vec<f64>]| x[0].iter().zip(&x[1]).map(|(a, b)| a + b).collect();
        check(random, &format!("add, {name}"), &[a, b], |t, x| ops::add(t, &x[0], &x[1]), add);
    }
}

#[test]
fn relu_at_zero() {
    let tiny = f32::from_bits(1);
    let x = [0.0, -0.0, tiny, -tiny, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -1.0, 1.0];
    let operand = (x.to_vec(), vec![x.len()]);
    for device in devices() {
        let (y, dx) = run(
            &device,
            std::slice::from_ref(&operand),
            |t, x| ops::relu(t, &x[0]),
            Some(&[7.0; 9]),
        );
        let nan = f32::NAN;
        assert_same_bits("relu", &y, &[0.0, 0.0, tiny, 0.0, f32::INFINITY, 0.0, nan, 0.0, 1.0]);
        assert_same_bits("the NaN of a GPU", &[f32::from_bits(0x7fff_ffff)], &[nan]);
        assert_same_bits("relu", &dx[0], &[0.0, 0.0, 7.0, 0.0, 7.0, 0.0, 7.0, 0.0, 7.0]);
    }
}

#[test]
fn a_tensor_used_twice_gets_the_sum_of_both_gradients() {
    for device in devices() {
        let x = (vec![1.0, -2.0, 3.0], vec![3]);
        let twice = |tape: &mut Tape, x: &[Tensor]| {
            let y = ops::add(tape, &x[0], &x[0])?;
            ops::add(tape, &y, &x[0])
        };
        let (y, dx) = run(&device, &[x], twice, Some(&[1.0, 1.0, 2.0]));
        assert_eq!((y, dx), (vec![3.0, -6.0, 9.0], vec![vec![3.0, 3.0, 6.0]]));
    }
}

#[test]
fn normalize() {
    let random = &mut Random::new();
    for case in cases::<Case>(include_str!("../../cases/normalize.toml")) {
        let (mean, std) = (case.by_channel(random), case.scales(random));
        let c = mean.0.len();
        let constants = (wide(&mean.0), wide(&std.0));
        let op = |tape: &mut Tape, x: &[Tensor]| {
            let tensor = |(v, s): &Operand| Tensor::from_vec(v.clone(), s, &x[0].device());
            ops::normalize(tape, &x[0], &tensor(&mean)?, &tensor(&std)?)
        };
        let reference = |x: &[Vec<f64>]| {
            let one = |(i, x): (usize, &f64)| (x - constants.0[i % c]) / constants.1[i % c];
            x[0].iter().enumerate().map(one).collect()
        };
        let x = case.operand(random);
        check(random, &format!("normalize, {}", case.name), &[x], op, reference);
    }
}

/// More elements than threads: each thread goes on by the grid's stride.
#[test]
fn a_grid_smaller_than_the_tensor_walks_on() {
    let random = &mut Random::new();
    let len = 3 * 1001;
    let (x, c) = (random.normals(len), 3);
    for device in devices() {
        let Device::Gpu(gpu) = &device else { continue };
        let tensor = |x: &[f32]| Tensor::from_vec(x.to_vec(), &[x.len()], &device).unwrap();
        let (mean, std) = (tensor(&[0.5, -1.0, 2.0]), tensor(&[0.25, 1.5, 3.0]));
        let y = tensor(&vec![0.0; len]);
        let input = tensor(&x);
        let launch = |name| Launch::new(name).grid(2, 1, 1).block(32, 1, 1).arg(&input);
        launch("normalize_f32")
            .arg(&mean)
            .arg(&std)
            .arg(&y)
            .arg(&(len as i64))
            .arg(&c)
            .run(gpu.as_ref())
            .unwrap();
        let want = |i: usize| (x[i] - [0.5, -1.0, 2.0][i % 3]) / [0.25, 1.5, 3.0][i % 3];
        assert_same_bits(
            "normalize",
            &y.to_vec().unwrap(),
            &(0..len).map(want).collect::<Vec<_>>(),
        );
        launch("relu_forward_f32").arg(&y).arg(&(len as i64)).run(gpu.as_ref()).unwrap();
        let want = x.iter().map(|x| x.max(0.0)).collect::<Vec<_>>();
        assert_same_bits("relu", &y.to_vec().unwrap(), &want);
    }
}

const EPS: f64 = 1e-5;

/// Mean and biased variance of every channel.
fn statistics(x: &[f64], c: usize) -> Vec<(f64, f64)> {
    let n = (x.len() / c) as f64;
    let of = |channel: usize| x.iter().skip(channel).step_by(c);
    (0..c)
        .map(|channel| {
            let mean = of(channel).sum::<f64>() / n;
            (mean, of(channel).map(|x| (x - mean).powi(2)).sum::<f64>() / n)
        })
        .collect()
}

/// `(x − mean)/√(var + eps)·weight + bias`, operands x, weight, bias.
fn normalized(operands: &[Vec<f64>], statistics: &[(f64, f64)]) -> Vec<f64> {
    let c = statistics.len();
    let one = |(i, x): (usize, &f64)| {
        let (mean, var) = statistics[i % c];
        (x - mean) / (var + EPS).sqrt() * operands[1][i % c] + operands[2][i % c]
    };
    operands[0].iter().enumerate().map(one).collect()
}

/// dJ/dy for which no channel's `Σ dy` or `Σ dy·x̂` is near 0, where x̂ is x normalised with `statistics`.
fn seed_away_from_zero(random: &mut Random, x: &[f64], with: &[(f64, f64)]) -> Vec<f32> {
    let c = with.len();
    let batch = statistics(x, c);
    let noise = random.normals(x.len());
    let one = |(i, noise): (usize, f32)| {
        let (mean, var) = batch[i % c];
        let side = if mean < with[i % c].0 { -2.0 } else { 2.0 };
        let own = (x[i] - mean) / (var + EPS).sqrt();
        noise + (side + 2.0 * own) as f32
    };
    noise.into_iter().enumerate().map(one).collect()
}

#[test]
fn batch_norm_train() {
    let random = &mut Random::new();
    for case in cases::<Case>(include_str!("../../cases/batch_norm.toml")) {
        let operands = [case.operand(random), case.by_channel(random), case.by_channel(random)];
        let running = [1.0, 0.0]
            .map(|least| case.scales(random).0.iter().map(|x| least + x).collect::<Vec<f32>>());
        let c = running[0].len();
        let start =
            |device: &Device, which: usize| Tensor::from_vec(running[which].clone(), &[c], device);
        let op = |tape: &mut Tape, x: &[Tensor]| {
            let device = &x[0].device();
            let (mut mean, mut var) = (start(device, 0)?, start(device, 1)?);
            let eps = EPS as f32;
            ops::batch_norm_train(tape, &x[0], &x[1], &x[2], &mut mean, &mut var, 0.1, eps)
        };
        let reference = |x: &[Vec<f64>]| normalized(x, &statistics(&x[0], c));
        let x = wide(&operands[0].0);
        let seed = seed_away_from_zero(random, &x, &statistics(&x, c));
        check_seeded(&format!("batch_norm_train, {}", case.name), &operands, &seed, op, reference);

        let unbias = (x.len() / c) as f64 / (x.len() / c - 1) as f64;
        let batch = statistics(&x, c);
        let mix = |running: f32, batch: f64| 0.9 * f64::from(running) + 0.1 * batch;
        let want_mean = (0..c).map(|i| mix(running[0][i], batch[i].0)).collect::<Vec<_>>();
        let want_var = (0..c).map(|i| mix(running[1][i], batch[i].1 * unbias)).collect::<Vec<_>>();
        for device in devices() {
            let tensor = |(v, s): &Operand| Tensor::from_vec(v.clone(), s, &device).unwrap();
            let [x, weight, bias] = operands.each_ref().map(tensor);
            let (mut mean, mut var) = (start(&device, 0).unwrap(), start(&device, 1).unwrap());
            let before = mean.clone();
            let tape = &mut Tape::new(Mode::F32);
            ops::batch_norm_train(tape, &x, &weight, &bias, &mut mean, &mut var, 0.1, 1e-5)
                .unwrap();
            let what = format!("running statistics, {} on {device}", case.name);
            assert_close(&what, &mean.to_vec().unwrap(), &want_mean, 1e-5);
            assert_close(&what, &var.to_vec().unwrap(), &want_var, 1e-5);
            assert_same_bits("a clone made before", &before.to_vec().unwrap(), &running[0]);
        }
    }
}

#[test]
fn batch_norm_eval() {
    let random = &mut Random::new();
    for case in cases::<Case>(include_str!("../../cases/batch_norm.toml")) {
        let operands = [case.operand(random), case.by_channel(random), case.by_channel(random)];
        let (mean, var) = (case.by_channel(random), case.scales(random));
        let running = wide(&mean.0).into_iter().zip(wide(&var.0)).collect::<Vec<_>>();
        let op = |tape: &mut Tape, x: &[Tensor]| {
            let tensor = |(v, s): &Operand| Tensor::from_vec(v.clone(), s, &x[0].device());
            ops::batch_norm_eval(
                tape,
                &x[0],
                &x[1],
                &x[2],
                &tensor(&mean)?,
                &tensor(&var)?,
                EPS as f32,
            )
        };
        let reference = |x: &[Vec<f64>]| normalized(x, &running);
        let seed = seed_away_from_zero(random, &wide(&operands[0].0), &running);
        check_seeded(&format!("batch_norm_eval, {}", case.name), &operands, &seed, op, reference);
    }
}

#[test]
fn a_constant_channel_gives_its_bias() {
    // Where all weights of a filter are pruned its map is constant: 1/√eps = 316 amplifies what rounding leaves.
    for value in [0.3f32, -17.1, 1e-3] {
        for device in devices() {
            let operands = [
                (vec![value; 37 * 41 * 2], vec![37, 41, 2]),
                (vec![1.5, -0.5], vec![2]),
                (vec![0.25, 2.0], vec![2]),
            ];
            let op = |tape: &mut Tape, x: &[Tensor]| {
                let one = |value| Tensor::from_vec(vec![value; 2], &[2], &x[0].device());
                let (mut mean, mut var) = (one(0.0)?, one(1.0)?);
                ops::batch_norm_train(tape, &x[0], &x[1], &x[2], &mut mean, &mut var, 0.1, 1e-5)
            };
            let (y, _) = run(&device, &operands, op, None);
            let want = y.iter().enumerate().map(|(i, _)| [0.25, 2.0][i % 2]).collect::<Vec<_>>();
            assert_close(format!("{value} on {device}"), &y, &want, 1e-5);
        }
    }
}

#[test]
fn batch_norm_refuses_one_value_a_channel() {
    for device in devices() {
        let c = |value: f32| Tensor::from_vec(vec![value; 3], &[3], &device).unwrap();
        let x = Tensor::from_vec(vec![1.0f32; 3], &[1, 1, 1, 3], &device).unwrap();
        let (mut mean, mut var) = (c(0.0), c(1.0));
        let tape = &mut Tape::new(Mode::F32);
        let error =
            ops::batch_norm_train(tape, &x, &c(1.0), &c(0.0), &mut mean, &mut var, 0.1, 1e-5);
        assert!(matches!(error.unwrap_err().kind(), ErrorKind::Shape { .. }));
    }
}

#[test]
fn pool() {
    let random = &mut Random::new();
    for case in cases::<Case>(include_str!("../../cases/pool.toml")) {
        let [n, h, w, c] = case.shape[..] else { panic!("{}", case.name) };
        let x = [case.operand(random)];
        let mean = |x: &[Vec<f64>]| {
            let pixels = |n: usize, c0: usize| (0..h * w).map(move |p| (n * h * w + p) * c + c0);
            let sum = |n, c0| pixels(n, c0).map(|i| x[0][i]).sum::<f64>();
            (0..n * c).map(|i| sum(i / c, i % c) / (h * w) as f64).collect()
        };
        let what = format!("global_avg_pool, {}", case.name);
        check(random, &what, &x, |tape, x| ops::global_avg_pool(tape, &x[0]), mean);
        if h < 2 || w < 2 {
            for device in devices() {
                let x = Tensor::from_vec(x[0].0.clone(), &case.shape, &device).unwrap();
                let error =
                    ops::max_pool(&mut Tape::new(Mode::F32), &x, Window::HALVES).unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::Shape { what: "x", .. }), "{error}");
            }
            continue;
        }
        let (p, q) = (h / 2, w / 2);
        let max = |x: &[Vec<f64>]| {
            let at =
                |n: usize, h0: usize, w0: usize, c0: usize| x[0][((n * h + h0) * w + w0) * c + c0];
            let window = |i: usize| {
                let (n, row, column, c0) = (i / (p * q * c), i / (q * c) % p, i / c % q, i % c);
                (0..4)
                    .map(|k| at(n, 2 * row + k / 2, 2 * column + k % 2, c0))
                    .fold(f64::MIN, f64::max)
            };
            (0..n * p * q * c).map(window).collect()
        };
        let what = format!("max_pool2, {}", case.name);
        check(random, &what, &x, |tape, x| ops::max_pool(tape, &x[0], Window::HALVES), max);
    }
}

#[test]
fn max_pool_takes_the_first_of_equals_and_a_nan() {
    let (nan, x) = (f32::NAN, [1.0, 1.0, 3.0, 0.0, 1.0, 1.0, 3.0, 3.0]);
    for device in devices() {
        let op = |tape: &mut Tape, x: &[Tensor]| ops::max_pool(tape, &x[0], Window::HALVES);
        let (y, dx) = run(&device, &[(x.to_vec(), vec![1, 2, 4, 1])], op, Some(&[5.0, 6.0]));
        assert_eq!(y, [1.0, 3.0]);
        assert_eq!(dx[0], [5.0, 0.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let x = vec![1.0, nan, nan, 9.0];
        let (y, dx) = run(&device, &[(x, vec![1, 2, 2, 1])], op, Some(&[5.0]));
        assert!(y[0].is_nan());
        assert_eq!(dx[0], [0.0, 5.0, 0.0, 0.0]);
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowCase {
    name: String,
    shape: [usize; 4],
    /// Size, stride, padding.
    window: [usize; 3],
    #[serde(default)]
    fill: Fill,
}

#[test]
fn window_pool() {
    let random = &mut Random::new();
    for case in cases::<WindowCase>(include_str!("../../cases/window_pool.toml")) {
        let ([n, h, w, c], [size, stride, padding]) = (case.shape, case.window);
        let window = Window { size, stride, padding };
        let (p, q) = ((h + 2 * padding - size) / stride + 1, (w + 2 * padding - size) / stride + 1);
        let x = [(random.fill(case.fill, n * h * w * c), case.shape.to_vec())];
        // The values of each window that lie in the image, windows in the order of y.
        let windows = |x: &[f64]| -> Vec<Vec<f64>> {
            let window = |i: usize| {
                let (n, row, column, c0) = (i / (p * q * c), i / (q * c) % p, i / c % q, i % c);
                let mut values = Vec::new();
                for (r, s) in (0..size).flat_map(|r| (0..size).map(move |s| (r, s))) {
                    let (y, z) = (row * stride + r, column * stride + s);
                    if y >= padding && y - padding < h && z >= padding && z - padding < w {
                        values.push(x[((n * h + y - padding) * w + z - padding) * c + c0]);
                    }
                }
                values
            };
            (0..n * p * q * c).map(window).collect()
        };
        let max = |x: &[Vec<f64>]| {
            windows(&x[0]).iter().map(|w| w.iter().copied().fold(f64::MIN, f64::max)).collect()
        };
        let mean = |x: &[Vec<f64>]| {
            let area = (size * size) as f64;
            windows(&x[0]).iter().map(|w| w.iter().sum::<f64>() / area).collect()
        };
        let what = format!("max_pool, {}", case.name);
        check(random, &what, &x, |tape, x| ops::max_pool(tape, &x[0], window), max);
        let what = format!("avg_pool, {}", case.name);
        check(random, &what, &x, |tape, x| ops::avg_pool(tape, &x[0], window), mean);
    }
}

#[test]
fn max_pool_of_windows_takes_the_first_of_equals_and_a_nan() {
    let (nan, window) = (f32::NAN, Window { size: 3, stride: 2, padding: 1 });
    for device in devices() {
        let op = |tape: &mut Tape, x: &[Tensor]| ops::max_pool(tape, &x[0], window);
        // Windows [1, 1], [1, 3, 3], [3, 3]; the third pixel is the maximum of two.
        let x = vec![1.0, 1.0, 3.0, 3.0, 3.0];
        let (y, dx) = run(&device, &[(x, vec![1, 1, 5, 1])], op, Some(&[5.0, 6.0, 7.0]));
        assert_eq!(y, [1.0, 3.0, 3.0]);
        assert_eq!(dx[0], [5.0, 0.0, 6.0, 7.0, 0.0]);
        let x = vec![9.0, nan, nan, -1.0, -2.0];
        let (y, dx) = run(&device, &[(x, vec![1, 1, 5, 1])], op, Some(&[5.0, 6.0, 7.0]));
        assert!(y[0].is_nan() && y[1].is_nan() && y[2] == -1.0, "{y:?}");
        assert_eq!(dx[0], [0.0, 11.0, 0.0, 7.0, 0.0]);
    }
}

#[test]
fn windows_that_do_not_fit_are_errors() {
    for device in devices() {
        let x = Tensor::zeros(&[1, 4, 3, 2], rewire::DType::F32, &device).unwrap();
        for (size, stride, padding) in [(0, 1, 0), (4, 1, 0), (16, 1, 8), (2, 0, 0), (3, 1, 2)] {
            let window = Window { size, stride, padding };
            for op in [ops::max_pool, ops::avg_pool] {
                let error = op(&mut Tape::new(Mode::F32), &x, window).unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::Shape { what: "x", .. }), "{error}");
            }
        }
    }
}

#[test]
fn flatten() {
    let random = &mut Random::new();
    for case in cases::<Case>(include_str!("../../cases/flatten.toml")) {
        let [n, h, w, c] = case.shape[..] else { panic!("{}", case.name) };
        let pixels = h * w;
        let reference = |x: &[Vec<f64>]| {
            let from = |i: usize| {
                let (n, feature) = (i / (pixels * c), i % (pixels * c));
                x[0][(n * pixels + feature % pixels) * c + feature / pixels]
            };
            (0..n * pixels * c).map(from).collect()
        };
        let x = [case.operand(random)];
        check(
            random,
            &format!("flatten, {}", case.name),
            &x,
            |t, x| ops::flatten(t, &x[0]),
            reference,
        );
    }
}

#[test]
fn softmax_xent() {
    let random = &mut Random::new();
    for case in cases::<Case>(include_str!("../../cases/softmax_xent.toml")) {
        let [n, k] = case.shape[..] else { panic!("{}", case.name) };
        let rng = random.stream();
        let labels = (0..n).map(|i| (rng.bits(i) as usize % k) as i32).collect::<Vec<_>>();
        let each = |z: &[f64]| {
            let row = |(z, &label): (&[f64], &i32)| {
                let max = z.iter().copied().fold(f64::MIN, f64::max);
                z.iter().map(|z| (z - max).exp()).sum::<f64>().ln() - (z[label as usize] - max)
            };
            z.chunks(k).zip(&labels).map(row).collect::<Vec<_>>()
        };
        let label_tensor =
            |device: &Device| Tensor::from_vec(labels.clone(), &[n], device).unwrap();
        let op = |tape: &mut Tape, z: &[Tensor]| {
            ops::softmax_xent(tape, &z[0], &label_tensor(&z[0].device()))
        };
        let logits = case.operand(random);
        let mean = |z: &[Vec<f64>]| vec![each(&z[0]).iter().sum::<f64>() / n as f64];
        check(
            random,
            &format!("softmax_xent, {}", case.name),
            std::slice::from_ref(&logits),
            op,
            mean,
        );
        for device in devices() {
            let z = Tensor::from_vec(logits.0.clone(), &case.shape, &device).unwrap();
            let losses = ops::softmax_xent_each(&z, &label_tensor(&device)).unwrap();
            let what = format!("softmax_xent_each, {} on {device}", case.name);
            assert_close(&what, &losses.to_vec().unwrap(), &each(&wide(&logits.0)), 1e-5);
        }
    }
}

#[test]
fn a_seed_of_n_gives_the_gradient_of_the_sum_to_the_last_bit() {
    let random = &mut Random::new();
    let (n, k) = (37, 10);
    let logits = (random.normals(n * k), vec![n, k]);
    for device in devices() {
        let op = |tape: &mut Tape, z: &[Tensor]| {
            let labels = Tensor::from_vec(vec![3i32; n], &[n], &z[0].device())?;
            ops::softmax_xent(tape, &z[0], &labels)
        };
        let (_, dz) = run(&device, std::slice::from_ref(&logits), op, Some(&[n as f32]));
        let one = |tape: &mut Tape, z: &[Tensor]| {
            let labels = Tensor::from_vec(vec![3i32], &[1], &z[0].device())?;
            ops::softmax_xent(tape, &z[0], &labels)
        };
        for (i, dz) in dz[0].chunks(k).enumerate() {
            let row = (logits.0[i * k..][..k].to_vec(), vec![1, k]);
            assert_same_bits("a row", dz, &run(&device, &[row], one, Some(&[1.0])).1[0]);
        }
    }
}

#[test]
fn a_label_outside_the_classes_is_an_error_or_nan() {
    for device in devices() {
        let z = Tensor::from_vec(vec![0.5f32; 6], &[2, 3], &device).unwrap();
        for bad in [3, -1] {
            let labels = Tensor::from_vec(vec![0, bad], &[2], &device).unwrap();
            match ops::softmax_xent_each(&z, &labels) {
                Err(error) => assert!(matches!(error.kind(), ErrorKind::Param { .. }), "{error}"),
                Ok(losses) => {
                    let losses = losses.to_vec::<f32>().unwrap();
                    assert!(losses[0].is_finite() && losses[1].is_nan());
                }
            }
        }
    }
}
