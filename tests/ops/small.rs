//! Operations besides convolution: a table of cases for each, result and gradients against float64.

mod infer;
mod layers;
mod masks;
mod updates;

use super::{Random, assert_close, cases, devices};
use rewire::rng::Philox;
use rewire::{Device, Mode, Result, Seed, Tape, Tensor};

/// How a case fills an operand.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fill {
    /// Standard normal numbers, none nearer to 0 than 1e-3.
    #[default]
    Normal,
    /// Distinct multiples of 1/64 in random order.
    Distinct,
    /// In [0, 1], both ends among them.
    Pixels,
    /// One of five values.
    Ties,
    /// The same number everywhere.
    Equal,
    /// +0 and −0.
    Zeros,
    /// Below the smallest normal number.
    Denormal,
    /// Normal numbers around 30.
    Offset,
    /// A hundred times normal numbers: their exponentials overflow.
    Large,
}

impl Random {
    fn stream(&mut self) -> Philox {
        Seed(self.bits()).stream("test", 0, 0)
    }

    /// Standard normal numbers, none nearer to 0 than 1e-3.
    fn normals(&mut self, len: usize) -> Vec<f32> {
        let rng = self.stream();
        (0..len).map(|i| rng.normal(i)).map(|x| x.abs().max(1e-3).copysign(x)).collect()
    }

    /// Ones with that probability.
    fn mask(&mut self, len: usize, density: f32) -> Vec<u8> {
        let rng = self.stream();
        (0..len).map(|i| u8::from(rng.uniform(i) < density)).collect()
    }

    fn fill(&mut self, fill: Fill, len: usize) -> Vec<f32> {
        let rng = self.stream();
        let pick = |i: usize, from: &[f32]| from[rng.bits(i) as usize % from.len()];
        let each = |f: &dyn Fn(usize) -> f32| (0..len).map(f).collect();
        match fill {
            Fill::Normal => self.normals(len),
            Fill::Distinct => {
                let mut order = (0..len).collect::<Vec<_>>();
                order.sort_by_key(|&i| (rng.bits(i), i));
                order.into_iter().map(|i| (i as f32 - len as f32 / 2.0) / 64.0).collect()
            }
            Fill::Pixels => each(&|i| (rng.uniform(i) * 1.2 - 0.1).clamp(0.0, 1.0)),
            Fill::Ties => each(&|i| pick(i, &[-1.0, -0.5, 0.0, 0.5, 2.0])),
            Fill::Equal => vec![0.5; len],
            Fill::Zeros => each(&|i| pick(i, &[0.0, -0.0])),
            Fill::Denormal => each(&|i| f32::from_bits(rng.bits(i) & 0x807f_ffff)),
            Fill::Large => each(&|i| 100.0 * rng.normal(i)),
            Fill::Offset => each(&|i| 30.0 + rng.normal(i)),
        }
    }
}

/// Equal bits, so that −0 is not +0; a NaN equals every other, for a GPU makes each of them 0x7FFFFFFF.
fn assert_same_bits(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        assert!(same, "{what}: element {i}: {a:e} and {b:e}");
    }
}

/// d(Σ seed·f)/dx for every element x of operand `which`, by central differences in float64.
fn finite_differences(
    f: &dyn Fn(&[Vec<f64>]) -> Vec<f64>,
    operands: &[Vec<f64>],
    which: usize,
    seed: &[f32],
) -> Vec<f64> {
    const STEP: f64 = 1e-6;
    let len = operands[which].len();
    let mut operands = operands.to_vec();
    let slope = |i: usize| {
        let x = operands[which][i];
        let mut at = |x: f64| {
            operands[which][i] = x;
            f(&operands)
        };
        let (above, below) = (at(x + STEP), at(x - STEP));
        at(x);
        // Differences first: the sums themselves would lose their digits.
        let moved = above.iter().zip(&below).map(|(above, below)| (above - below) / (2.0 * STEP));
        moved.zip(seed).map(|(slope, &seed)| slope * f64::from(seed)).sum()
    };
    (0..len).map(slope).collect()
}

/// Values and shape of an operand.
type Operand = (Vec<f32>, Vec<usize>);

/// Holds `op` against the same in float64 loops, with normal numbers as dJ/dy.
fn check(
    random: &mut Random,
    what: &str,
    operands: &[Operand],
    op: impl Fn(&mut Tape, &[Tensor]) -> Result<Tensor>,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    let wide = operands.iter().map(|(x, _)| wide(x)).collect::<Vec<_>>();
    let seed = random.normals(reference(&wide).len());
    check_seeded(what, operands, &seed, op, reference);
}

/// Result and gradients within 1e-5 of float64 on each device, the same bits when repeated and without a tape.
///
/// The seed is dJ/dy. Where a gradient is one sum over many elements the seed must keep that sum away from 0,
/// or its relative error says nothing.
fn check_seeded(
    what: &str,
    operands: &[Operand],
    seed: &[f32],
    op: impl Fn(&mut Tape, &[Tensor]) -> Result<Tensor>,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    let wide = operands.iter().map(|(x, _)| wide(x)).collect::<Vec<_>>();
    let want = reference(&wide);
    let slopes =
        (0..wide.len()).map(|i| finite_differences(&reference, &wide, i, seed)).collect::<Vec<_>>();
    for device in devices() {
        let what = format!("{what} on {device}");
        let (y, gradients) = run(&device, operands, &op, Some(seed));
        assert_close(&what, &y, &want, 1e-5);
        for (i, (got, want)) in gradients.iter().zip(&slopes).enumerate() {
            assert_close(format!("{what}, gradient of operand {i}"), got, want, 1e-5);
        }
        let (y_again, gradients_again) = run(&device, operands, &op, Some(seed));
        assert_same_bits(&what, &y, &y_again);
        gradients.iter().zip(&gradients_again).for_each(|(a, b)| assert_same_bits(&what, a, b));
        assert_same_bits(&what, &y, &run(&device, operands, &op, None).0);
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// The result of `op`, and with a seed the gradient of every operand.
fn run(
    device: &Device,
    operands: &[Operand],
    op: impl Fn(&mut Tape, &[Tensor]) -> Result<Tensor>,
    seed: Option<&[f32]>,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let tensors = operands
        .iter()
        .map(|(x, shape)| Tensor::from_vec(x.clone(), shape, device).unwrap())
        .collect::<Vec<_>>();
    let mut tape = Tape::new(Mode::F32);
    if seed.is_some() {
        tensors.iter().for_each(|tensor| tape.watch(tensor));
    }
    let y = op(&mut tape, &tensors).unwrap();
    let values = y.to_vec().unwrap();
    let Some(seed) = seed else { return (values, Vec::new()) };
    let seed = Tensor::from_vec(seed.to_vec(), y.shape(), device).unwrap();
    let gradients = tape.backward(&y, seed).unwrap();
    let gradient = |x: &Tensor| gradients.get(x).expect("a gradient").to_vec().unwrap();
    (values, tensors.iter().map(gradient).collect())
}
