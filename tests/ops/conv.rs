//! Convolution and linear layers.

mod infer;
mod packed;
mod planes;
mod pruned;
mod reference;

use super::{Random, assert_close, cases, devices, devices_and_modes, first_only};
use reference::Conv;
use rewire::{Device, Mode, Tape, Tensor, ops};
use serde::Deserialize;

/// A row of `conv2d.toml`, `sparse_conv2d.toml` or `gather_conv2d.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    x: [usize; 4],
    w: [usize; 4],
    stride: usize,
    padding: usize,
    bias: bool,
    /// Share of weights that are kept, for masked filters.
    #[serde(default)]
    density: f64,
}

impl Case {
    fn small(x: [usize; 4], w: [usize; 4]) -> Self {
        Self { name: "small".into(), x, w, stride: 2, padding: 1, bias: true, density: 0.0 }
    }
}

/// Random operands of one case.
struct Operands {
    conv: Conv,
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Option<Vec<f32>>,
    dy: Vec<f32>,
}

impl Operands {
    fn new(case: &Case, random: &mut Random) -> Self {
        let conv = Conv { x: case.x, w: case.w, stride: case.stride, padding: case.padding };
        // A handful of sums can all come out near 0 by chance, and rounded operands are then far off relative to
        // them; where there are so few, nothing is negative and nothing cancels.
        let few = |shape: [usize; 4]| shape.iter().product::<usize>() < 64;
        let positive = few(case.x) || few(case.w) || few(conv.y());
        let mut draw = |len: usize| -> Vec<f32> {
            let values = random.vec(len).into_iter();
            values.map(|v| if positive { v.abs() } else { v }).collect()
        };
        Self {
            x: draw(case.x.iter().product()),
            w: draw(case.w.iter().product()),
            bias: case.bias.then(|| draw(case.w[0])),
            dy: draw(conv.y().iter().product()),
            conv,
        }
    }

    /// J = Σ y · dy.
    fn loss(&self, y: &[f64]) -> f64 {
        y.iter().zip(&self.dy).map(|(y, &dy)| y * f64::from(dy)).sum()
    }

    /// y, dx, dw, dbias in float64.
    fn reference(&self) -> [Vec<f64>; 4] {
        let bias = self.bias.clone().unwrap_or_default();
        [
            self.conv.forward(&wide(&self.x), &wide(&self.w), &wide(&bias)),
            self.conv.backward_input(&wide(&self.dy), &wide(&self.w)),
            self.conv.backward_weight(&wide(&self.x), &wide(&self.dy)),
            if self.bias.is_some() { self.conv.backward_bias(&wide(&self.dy)) } else { vec![] },
        ]
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

const RESULTS: [&str; 4] = ["y", "dx", "dw", "dbias"];

/// y and the gradients of x, w and bias of `op`.
fn run(
    device: &Device,
    mode: Mode,
    operands: &Operands,
    op: impl Fn(&mut Tape, &Tensor, &Tensor, Option<&Tensor>) -> rewire::Result<Tensor>,
) -> [Vec<f32>; 4] {
    let tensor =
        |data: &[f32], shape: &[usize]| Tensor::from_vec(data.to_vec(), shape, device).unwrap();
    let Conv { x, w, .. } = operands.conv;
    let (x, w) = (tensor(&operands.x, &x), tensor(&operands.w, &w));
    let bias = operands.bias.as_ref().map(|bias| tensor(bias, &[bias.len()]));
    let mut tape = Tape::new(mode);
    [Some(&x), Some(&w), bias.as_ref()].into_iter().flatten().for_each(|t| tape.watch(t));
    let y = op(&mut tape, &x, &w, bias.as_ref()).unwrap();
    let gradients = tape.backward(&y, tensor(&operands.dy, y.shape())).unwrap();
    let of = |tensor: &Tensor| gradients.get(tensor).unwrap().to_vec().unwrap();
    [y.to_vec().unwrap(), of(&x), of(&w), bias.as_ref().map_or(vec![], of)]
}

fn conv2d(device: &Device, mode: Mode, o: &Operands) -> [Vec<f32>; 4] {
    let (stride, padding) = (o.conv.stride, o.conv.padding);
    run(device, mode, o, |tape, x, w, bias| ops::conv2d(tape, x, w, bias, stride, padding))
}

#[test]
fn conv2d_and_its_gradients_equal_float64_loops() {
    let mut random = Random::new();
    for case in cases::<Case>(include_str!("../cases/conv2d.toml")) {
        let operands = Operands::new(&case, &mut random);
        let want = operands.reference();
        for (device, mode) in devices_and_modes() {
            let got = conv2d(&device, mode, &operands);
            for (i, result) in RESULTS.iter().enumerate() {
                let what = (result, &case.name, &device, mode);
                assert_close(what, &got[i], &want[i], mode.tolerance());
            }
        }
    }
}

#[test]
fn conv2d_of_random_shapes_equals_float64_loops() {
    let mut random = Random::new();
    for _ in 0..if first_only() { 1 } else { 12 } {
        let mut from =
            |least: u64, most: u64| (least + random.bits() % (most - least + 1)) as usize;
        let [r, s, c, padding] = [from(1, 4), from(1, 4), from(1, 20), from(0, 2)];
        let least = |filter: usize| filter.saturating_sub(2 * padding).max(1) as u64;
        let case = Case {
            name: "random".into(),
            x: [from(1, 3), from(least(r), 9), from(least(s), 9), c],
            w: [from(1, 20), r, s, c],
            stride: from(1, 3),
            padding,
            bias: false,
            density: 1.0,
        };
        let operands = Operands::new(&case, &mut random);
        let want = operands.reference();
        for (device, mode) in devices_and_modes() {
            let got = conv2d(&device, mode, &operands);
            for (i, result) in RESULTS.iter().enumerate() {
                assert_close((result, &case, &device, mode), &got[i], &want[i], mode.tolerance());
            }
        }
    }
}

#[test]
fn conv2d_gives_the_same_bits_again() {
    let case = &cases::<Case>(include_str!("../cases/conv2d.toml"))[0];
    let operands = Operands::new(case, &mut Random::new());
    for (device, mode) in devices_and_modes() {
        let bits = || {
            conv2d(&device, mode, &operands)
                .map(|v| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
        };
        assert_eq!(bits(), bits(), "{device} {mode}");
    }
}

#[test]
fn gradients_of_conv2d_equal_finite_differences() {
    let case = Case::small([2, 5, 4, 3], [2, 3, 2, 3]);
    let o = Operands::new(&case, &mut Random::new());
    let (x, w, bias) = (wide(&o.x), wide(&o.w), wide(o.bias.as_ref().unwrap()));
    let loss = |x: &[f64], w: &[f64], bias: &[f64]| o.loss(&o.conv.forward(x, w, bias));
    let want = [
        differences(&x, |x| loss(x, &w, &bias)),
        differences(&w, |w| loss(&x, w, &bias)),
        differences(&bias, |bias| loss(&x, &w, bias)),
    ];
    for device in devices() {
        let got = conv2d(&device, Mode::F32, &o);
        for i in 0..3 {
            assert_close((RESULTS[i + 1], &device), &got[i + 1], &want[i], 1e-5);
        }
    }
}

/// Central differences of `f` at `x`.
fn differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-4;
    let mut at = x.to_vec();
    let mut moved = |i: usize, by: f64| {
        at[i] = x[i] + by;
        let value = f(&at);
        at[i] = x[i];
        value
    };
    (0..x.len()).map(|i| (moved(i, STEP) - moved(i, -STEP)) / (2.0 * STEP)).collect()
}

#[test]
fn only_gradients_that_are_watched_are_computed() {
    let operands = [vec![1.0f32; 32], vec![1.0; 18]];
    for device in devices() {
        let x = Tensor::from_vec(operands[0].clone(), &[1, 4, 4, 2], &device).unwrap();
        let w = Tensor::from_vec(operands[1].clone(), &[1, 3, 3, 2], &device).unwrap();
        let mut tape = Tape::new(Mode::F32);
        tape.watch(&x);
        let y = ops::conv2d(&mut tape, &x, &w, None, 1, 1).unwrap();
        let seed = Tensor::from_vec(vec![1.0f32; 16], y.shape(), &device).unwrap();
        let gradients = tape.backward(&y, seed).unwrap();
        assert!(gradients.get(&x).is_some() && gradients.get(&w).is_none());
    }
}

#[test]
fn operands_that_do_not_fit_are_errors_that_name_them() {
    let tensor = |shape: &[usize]| {
        Tensor::from_vec(vec![0.0f32; shape.iter().product()], shape, &Device::Cpu).unwrap()
    };
    let message = |x: &[usize], w: &[usize], bias: Option<usize>, stride, padding| {
        let bias = bias.map(|k| tensor(&[k]));
        let mut tape = Tape::new(Mode::F32);
        ops::conv2d(&mut tape, &tensor(x), &tensor(w), bias.as_ref(), stride, padding)
            .unwrap_err()
            .to_string()
    };
    let x = [1, 4, 4, 2];
    assert_eq!(
        message(&x, &[3, 3, 3, 5], None, 1, 1),
        "conv2d: w must be [3, 3, 3, 2], got [3, 3, 3, 5]"
    );
    assert_eq!(
        message(&x, &[3, 7, 3, 2], None, 1, 1),
        "conv2d: w must be filters of 1 to 6 by 1 to 6, got [3, 7, 3, 2]"
    );
    assert_eq!(message(&x, &[3, 3, 3, 2], Some(4), 1, 1), "conv2d: bias must be [3], got [4]");
    assert_eq!(message(&x, &[3, 3, 3, 2], None, 0, 1), "conv2d: stride = 0: must be at least 1");
    assert_eq!(
        message(&[4, 4, 2], &x, None, 1, 1),
        "conv2d: x must be of 4 dimensions, got [4, 4, 2]"
    );
}

/// A row of `linear.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinearCase {
    name: String,
    batch: usize,
    inputs: usize,
    outputs: usize,
    bias: bool,
}

#[test]
fn linear_and_its_gradients_equal_float64_loops() {
    let mut random = Random::new();
    for case in cases::<LinearCase>(include_str!("../cases/linear.toml")) {
        // A 1 x 1 convolution over images of one pixel.
        let as_conv = Case {
            name: case.name,
            x: [case.batch, 1, 1, case.inputs],
            w: [case.outputs, 1, 1, case.inputs],
            stride: 1,
            padding: 0,
            bias: case.bias,
            density: 0.0,
        };
        let o = Operands::new(&as_conv, &mut random);
        let want = o.reference();
        for (device, mode) in devices_and_modes() {
            let go = || run(&device, mode, &o, linear_of_pixels);
            let got = go();
            for (i, result) in RESULTS.iter().enumerate() {
                let what = (result, &as_conv.name, &device, mode);
                assert_close(what, &got[i], &want[i], mode.tolerance());
            }
            assert_eq!(got, go(), "the same bits again");
        }
    }
}

/// [`ops::linear`] over the pixels of x `[n, 1, 1, f]`.
fn linear_of_pixels(
    tape: &mut Tape,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> rewire::Result<Tensor> {
    let [n, _, _, f] = x.dims4("test", "x")?;
    let o = w.shape()[0];
    let matrix = |tape: &mut Tape, from: &Tensor, shape: [usize; 2]| -> rewire::Result<Tensor> {
        let (to, id, back) = (from.reshape(&shape)?, from.id(), from.shape().to_vec());
        tape.push(&[from], &to, move |d, gradients| gradients.add(id, d.reshape(&back)?));
        Ok(to)
    };
    let (x, w) = (matrix(tape, x, [n, f])?, matrix(tape, w, [o, f])?);
    ops::linear(tape, &x, &w, bias)
}
