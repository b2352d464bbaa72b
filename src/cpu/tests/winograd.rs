use super::conv::{layer, shape};
use super::lanes::{from_lanes, to_lanes};
use super::planes::pooled;
use super::{Random, check, unwritten};
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::finish::Finish;
use crate::cpu::isa::Isa;
use crate::cpu::winograd::{LaneWinogradConv, WinogradConv};

/// Whole tiles and parts of them, more tiles than a task has, channels that fill vectors and that do not; n, h, w, c, k, pad.
const SHAPES: &[[usize; 6]] = &[
    [1, 8, 8, 16, 32, 1],
    [1, 9, 7, 5, 40, 1],
    [2, 5, 6, 33, 72, 0],
    [3, 32, 31, 3, 17, 1],
    [1, 3, 3, 24, 144, 2],
    [1, 1, 1, 8, 8, 1],
    [1, 2, 1, 1, 1, 3],
    [1, 16, 16, 64, 80, 1],
];

/// More images than a vector has lanes; so many filters that more tiles than three share their weights.
const BLOCKS: &[[usize; 6]] = &[[19, 6, 5, 3, 9, 1], [37, 4, 4, 8, 16, 1], [20, 4, 5, 340, 352, 1]];

const SUMS: Finish = Finish { relu: false, pool: false };
const RELU: Finish = Finish { relu: true, pool: false };
const MAXIMA: Finish = Finish { relu: true, pool: true };

/// What [`MAXIMA`] makes of the sums, and its shape `[n, pixels, k]`.
fn maxima(shape: &ConvShape, sums: &[f64]) -> ([usize; 3], Vec<f64>) {
    let (n, p, q, k) = (shape.n, shape.p(), shape.q(), shape.k);
    let positive: Vec<f64> = sums.iter().map(|&sum| sum.max(0.0)).collect();
    ([n, (p / 2) * (q / 2), k], pooled([n, p, q, k], &positive))
}

/// A layer's shape; x, w, bias and residual; and the sums, and what [`RELU`] makes of them with the residual, in float64.
fn case(
    random: &mut Random,
    [n, h, w, c, k, pad]: [usize; 6],
) -> (ConvShape, [Vec<f32>; 4], [Vec<f64>; 2]) {
    let shape = shape([n, h, w, c, k, 3, 3, 1, pad]);
    let lens = [shape.input_len(), shape.filter_len(), shape.k, shape.output_len()];
    let operands = lens.map(|len| random.vec(len));
    let wants = layer(&shape, Mode::F32, operands.each_ref().map(Vec::as_slice));
    (shape, operands, wants)
}

#[test]
fn convolution_equals_float64() {
    let mut random = Random::new();
    for &values in SHAPES {
        let (shape, [x, w, bias, residual], [plain, finished]) = case(&mut random, values);
        let (_, largest) = maxima(&shape, &plain);
        for isa in Isa::available() {
            for m in [2, 4] {
                let what = |name| format!("{name} {shape:?} m={m}, {} lanes", isa.lanes());
                let mut y = unwritten(residual.len());
                WinogradConv::new_on(isa, m, &shape, &w, &bias, SUMS).run(&x, None, &mut y);
                check(&what("sums"), &y, &plain, 1e-5);
                let mut y = unwritten(residual.len());
                let conv = WinogradConv::new_on(isa, m, &shape, &w, &bias, RELU);
                conv.run(&x, Some(&residual), &mut y);
                check(&what("finished"), &y, &finished, 1e-5);
                let mut y = unwritten(largest.len());
                let conv = WinogradConv::new_on(isa, m, &shape, &w, &bias, MAXIMA);
                conv.run(&x, None, &mut y);
                check(&what("maxima"), &y, &largest, 1e-5);
            }
        }
    }
}

#[test]
fn convolution_in_lanes_equals_float64() {
    let mut random = Random::new();
    for &values in SHAPES.iter().chain(BLOCKS) {
        let (shape, [x, w, bias, residual], [plain, finished]) = case(&mut random, values);
        let (n, c, k) = (shape.n, shape.c, shape.k);
        let (small, largest) = maxima(&shape, &plain);
        let result = [n, shape.p() * shape.q(), k];
        for isa in Isa::available() {
            let lanes = isa.lanes();
            let x = to_lanes(lanes, [n, shape.h * shape.w, c], &x);
            let residual = to_lanes(lanes, result, &residual);
            for m in [2, 4] {
                let what = |name| format!("{name} {shape:?} m={m}, {lanes} lanes");
                let mut y = unwritten(residual.len());
                LaneWinogradConv::new_on(isa, m, &shape, &w, &bias, SUMS).run(&x, None, &mut y);
                check(&what("sums"), &from_lanes(lanes, result, &y), &plain, 1e-5);
                let mut y = unwritten(residual.len());
                let conv = LaneWinogradConv::new_on(isa, m, &shape, &w, &bias, RELU);
                conv.run(&x, Some(&residual), &mut y);
                check(&what("finished"), &from_lanes(lanes, result, &y), &finished, 1e-5);
                let mut y = unwritten(n.next_multiple_of(lanes) * small[1] * k);
                let conv = LaneWinogradConv::new_on(isa, m, &shape, &w, &bias, MAXIMA);
                conv.run(&x, None, &mut y);
                check(&what("maxima"), &from_lanes(lanes, small, &y), &largest, 1e-5);
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let mut random = Random::new();
    for [n, h, w, c, k, pad] in [[40, 4, 4, 24, 70, 1], [16, 8, 8, 9, 20, 1], [40, 9, 6, 5, 9, 1]] {
        let shape = shape([n, h, w, c, k, 3, 3, 1, pad]);
        let (lanes, w) = (Isa::detect().lanes(), random.vec(shape.filter_len()));
        let (bias, x) = (random.vec(k), random.vec(shape.input_len()));
        let inside = to_lanes(lanes, [n, shape.h * shape.w, c], &x);
        let run = |threads: usize, in_lanes: bool| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let result = [n, shape.p() * shape.q(), k];
                let images = if in_lanes { n.next_multiple_of(lanes) } else { n };
                let mut y = unwritten(images * result[1] * k);
                if !in_lanes {
                    let isa = Isa::detect();
                    WinogradConv::new_on(isa, 4, &shape, &w, &bias, RELU).run(&x, None, &mut y);
                    return y;
                }
                let isa = Isa::detect();
                let conv = LaneWinogradConv::new_on(isa, 4, &shape, &w, &bias, RELU);
                conv.run(&inside, None, &mut y);
                from_lanes(lanes, result, &y)
            })
        };
        for in_lanes in [false, true] {
            let one = run(1, in_lanes);
            for threads in [2, 5, 16] {
                assert!(run(threads, in_lanes) == one, "{shape:?}, {threads}, lanes: {in_lanes}");
            }
        }
    }
}

#[test]
fn weights_whose_transform_is_not_finite_are_left_alone() {
    let shape = shape([16, 8, 8, 64, 64, 3, 3, 1, 1]);
    let mut w = vec![0.1; shape.filter_len()];
    let bias = vec![0.0; shape.k];
    let made = |w: &[f32], mode: Mode| {
        let few = ConvShape { n: 1, h: 16, w: 16, ..shape };
        [
            WinogradConv::new(&few, w, &bias, SUMS, mode).is_some(),
            LaneWinogradConv::new(&shape, w, &bias, SUMS, mode).is_some(),
        ]
    };
    assert_eq!(made(&w, Mode::F32), [true; 2]);
    assert_eq!(made(&w, Mode::Bf16), [false; 2]);
    for wrong in [f32::NAN, f32::INFINITY, -3e38] {
        w[7] = wrong;
        assert_eq!(made(&w, Mode::F32), [false; 2], "{wrong}");
    }
}
