use super::conv::{SHAPES, layer, shape};
use super::{Random, check, unwritten};
use crate::Mode;
use crate::cpu::isa::Isa;
use crate::cpu::lanes::{self, LaneConv};

/// `[n, pixels, c]` with images in lanes.
pub(super) fn to_lanes(lanes: usize, [n, pixels, c]: [usize; 3], x: &[f32]) -> Vec<f32> {
    let (blocks, len) = (n.div_ceil(lanes), pixels * c);
    let at = |i: usize| (i / (len * lanes).max(1) * lanes + i % lanes, i / lanes % len.max(1));
    (0..blocks * len * lanes)
        .map(at)
        .map(|(image, i)| if image < n { x[image * len + i] } else { 0.0 })
        .collect()
}

/// Back from there.
pub(super) fn from_lanes(lanes: usize, [n, pixels, c]: [usize; 3], y: &[f32]) -> Vec<f32> {
    let len = pixels * c;
    let at = |i: usize| (i / len / lanes * len + i % len) * lanes + i / len % lanes;
    (0..n * len).map(|i| y[at(i)]).collect()
}

#[test]
fn convolution_equals_float64() {
    let mut random = Random::new();
    for &values in SHAPES {
        let shape = shape(values);
        let (n, pixels) = (shape.n, shape.p() * shape.q());
        let x = random.vec(shape.input_len());
        let w = random.vec(shape.filter_len());
        let bias = random.vec(shape.k);
        let residual = random.vec(shape.output_len());
        let wants = Mode::ALL.map(|mode| layer(&shape, mode, [&x, &w, &bias, &residual]));
        for isa in Isa::available() {
            let lanes = isa.lanes();
            let place = |x: &[f32], shape| to_lanes(lanes, shape, x);
            let x = place(&x, [n, shape.h * shape.w, shape.c]);
            let residual = place(&residual, [n, pixels, shape.k]);
            for (mode, [plain, finished]) in Mode::ALL.into_iter().zip(&wants) {
                let what = |name| format!("{name} {values:?} {mode}, {lanes} lanes");
                let read = |y: &[f32]| from_lanes(lanes, [n, pixels, shape.k], y);
                let mut y = unwritten(residual.len());
                LaneConv::new_on(isa, &shape, &w, &bias, false, mode).run(&x, None, &mut y);
                check(&what("sums"), &read(&y), plain, 1e-5);
                let mut y = unwritten(residual.len());
                let conv = LaneConv::new_on(isa, &shape, &w, &bias, true, mode);
                conv.run(&x, Some(&residual), &mut y);
                check(&what("finished"), &read(&y), finished, 1e-5);
            }
        }
    }
}

#[test]
fn conversions_pooling_and_mean_are_those_of_images() {
    let mut random = Random::new();
    let lanes = lanes::lanes();
    for [n, h, w, c] in [[1, 4, 4, 3], [lanes, 2, 6, 5], [2 * lanes + 3, 5, 4, 1], [3, 3, 3, 20]] {
        let x = random.vec(n * h * w * c);
        let mut inside = unwritten(lanes::len(n, [h, w, c]));
        lanes::from_nhwc([n, h * w, c], &x, &mut inside);
        assert_eq!(inside, to_lanes(lanes, [n, h * w, c], &x));
        let back = |shape: [usize; 3], inside: &[f32]| {
            let mut y = unwritten(shape.iter().product());
            lanes::to_nhwc(shape, inside, &mut y);
            y
        };
        assert_eq!(back([n, h * w, c], &inside), x);

        let pixel = |image: usize, y: usize, column: usize| ((image * h + y) * w + column) * c;
        let (p, q) = (h / 2, w / 2);
        let mut pooled = unwritten(lanes::len(n, [p, q, c]));
        lanes::max_pool([n, h, w, c], &inside, &mut pooled);
        let largest = |i: usize| {
            let (image, y, column) = (i / c / q / p, i / c / q % p, i / c % q);
            let window = [(0, 0), (0, 1), (1, 0), (1, 1)];
            let values =
                window.map(|(dy, dx)| x[pixel(image, 2 * y + dy, 2 * column + dx) + i % c]);
            values.into_iter().fold(f32::NEG_INFINITY, f32::max)
        };
        let want: Vec<f32> = (0..n * p * q * c).map(largest).collect();
        assert_eq!(back([n, p * q, c], &pooled), want);

        let mut means = unwritten(lanes::len(n, [1, 1, c]));
        lanes::mean([n, h * w, c], &inside, &mut means);
        let mean = |i: usize| {
            let values = (0..h * w).map(|at| f64::from(x[(i / c * h * w + at) * c + i % c]));
            values.sum::<f64>() / (h * w) as f64
        };
        let want: Vec<f64> = (0..n * c).map(mean).collect();
        check("mean", &back([n, 1, c], &means), &want, 1e-6);

        let index: Vec<usize> = (0..c).rev().step_by(2).collect();
        let mut picked = unwritten(lanes::len(n, [h, w, index.len()]));
        lanes::pick(c, &index, &inside, &mut picked);
        let want: Vec<f32> =
            x.chunks_exact(c).flat_map(|pixel| index.iter().map(|&i| pixel[i])).collect();
        assert_eq!(back([n, h * w, index.len()], &picked), want);
    }
}
