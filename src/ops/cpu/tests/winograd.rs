use super::conv::{layer, shape};
use super::lanes::{from_lanes, to_lanes};
use super::{Random, check, unwritten};
use crate::Mode;
use crate::ops::cpu::winograd::{LaneWinogradConv, WinogradConv};
use crate::ops::cpu::{lanes, nhwc};

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

#[test]
fn convolution_equals_float64() {
    let mut random = Random::new();
    for &[n, h, w, c, k, pad] in SHAPES {
        let shape = shape([n, h, w, c, k, 3, 3, 1, pad]);
        let x = random.vec(shape.input_len());
        let w = random.vec(shape.filter_len());
        let bias = random.vec(shape.k);
        let residual = random.vec(shape.output_len());
        let [plain, finished] = layer(&shape, Mode::F32, [&x, &w, &bias, &residual]);
        for isa in nhwc::Isa::available() {
            for m in [2, 4] {
                let what = |name| format!("{name} {shape:?} m={m}, {} lanes", isa.lanes());
                let mut y = unwritten(residual.len());
                WinogradConv::new_on(isa, m, &shape, &w, &bias, false).run(&x, None, &mut y);
                check(&what("sums"), &y, &plain, 1e-5);
                let mut y = unwritten(residual.len());
                let conv = WinogradConv::new_on(isa, m, &shape, &w, &bias, true);
                conv.run(&x, Some(&residual), &mut y);
                check(&what("finished"), &y, &finished, 1e-5);
            }
        }
    }
}

#[test]
fn convolution_in_lanes_equals_float64() {
    let mut random = Random::new();
    for &[n, h, w, c, k, pad] in SHAPES.iter().chain(BLOCKS) {
        let shape = shape([n, h, w, c, k, 3, 3, 1, pad]);
        let x = random.vec(shape.input_len());
        let w = random.vec(shape.filter_len());
        let bias = random.vec(shape.k);
        let residual = random.vec(shape.output_len());
        let [plain, finished] = layer(&shape, Mode::F32, [&x, &w, &bias, &residual]);
        let result = [n, shape.p() * shape.q(), k];
        for isa in lanes::Isa::available() {
            let lanes = isa.lanes();
            let x = to_lanes(lanes, [n, shape.h * shape.w, c], &x);
            let residual = to_lanes(lanes, result, &residual);
            for m in [2, 4] {
                let what = |name| format!("{name} {shape:?} m={m}, {lanes} lanes");
                let mut y = unwritten(residual.len());
                LaneWinogradConv::new_on(isa, m, &shape, &w, &bias, false).run(&x, None, &mut y);
                check(&what("sums"), &from_lanes(lanes, result, &y), &plain, 1e-5);
                let mut y = unwritten(residual.len());
                let conv = LaneWinogradConv::new_on(isa, m, &shape, &w, &bias, true);
                conv.run(&x, Some(&residual), &mut y);
                check(&what("finished"), &from_lanes(lanes, result, &y), &finished, 1e-5);
            }
        }
    }
}
