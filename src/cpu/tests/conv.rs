use super::{Random, check, unwritten};
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::isa::Isa;
use crate::cpu::round::round;
use crate::cpu::{conv2d, conv2d_weight};

/// n, h, w, c, k, r, s, stride, pad.
pub(super) const SHAPES: &[[usize; 9]] = &[
    [2, 8, 8, 16, 32, 3, 3, 1, 1],
    [1, 7, 5, 3, 10, 3, 3, 1, 1],
    [3, 9, 6, 5, 7, 3, 3, 2, 1],
    [2, 8, 8, 17, 33, 1, 1, 1, 0],
    [2, 7, 7, 6, 9, 1, 1, 2, 0],
    [33, 2, 2, 40, 70, 3, 3, 1, 1],
    [1, 1, 1, 16, 16, 3, 3, 1, 1],
    [1, 2, 2, 300, 65, 3, 3, 1, 1],
    [4, 24, 20, 3, 64, 3, 3, 1, 1],
    [20, 4, 4, 70, 130, 3, 3, 2, 1],
    [2, 6, 9, 3, 4, 5, 3, 3, 2],
    [40, 1, 1, 100, 30, 1, 1, 1, 0],
    [1, 4, 4, 2, 3, 2, 2, 2, 0],
    [3, 9, 6, 3, 21, 3, 3, 2, 1],
    [2, 5, 5, 1, 16, 3, 3, 1, 1],
    [4, 5, 7, 4, 8, 1, 1, 2, 0],
    [2, 6, 5, 2, 9, 3, 3, 1, 0],
    [0, 4, 4, 2, 3, 3, 3, 1, 1],
    [2, 4, 4, 0, 3, 3, 3, 1, 1],
    [2, 4, 4, 3, 0, 3, 3, 1, 1],
    [1, 1, 1, 2, 3, 3, 3, 1, 0],
];

pub(super) fn shape([n, h, w, c, k, r, s, stride, pad]: [usize; 9]) -> ConvShape {
    ConvShape { n, h, w, c, k, r, s, stride, pad }
}

/// Calls `f(x, w, y)` with the index of each product of the convolution.
pub(super) fn products(shape: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let &ConvShape { n, h, w, c, k, r, s, stride, pad } = shape;
    let (p, q) = (shape.p(), shape.q());
    for out in 0..n * p * q * r * s {
        let (tap, out) = (out % (r * s), out / (r * s));
        let (image, row, column) = (out / (p * q), out / q % p, out % q);
        let (dr, ds) = (tap / s, tap % s);
        let (Some(y), Some(x)) =
            ((row * stride + dr).checked_sub(pad), (column * stride + ds).checked_sub(pad))
        else {
            continue;
        };
        if y >= h || x >= w {
            continue;
        }
        for filter in 0..k {
            for channel in 0..c {
                f(
                    ((image * h + y) * w + x) * c + channel,
                    (filter * r * s + tap) * c + channel,
                    out * k + filter,
                );
            }
        }
    }
}

/// `x ∗ w + bias`, and `max(x ∗ w + bias + residual, 0)`, of operands that are rounded to the mode: what is left of a
/// difference is the rounding of the sums.
pub(super) fn layer(
    shape: &ConvShape,
    mode: Mode,
    [x, w, bias, residual]: [&[f32]; 4],
) -> [Vec<f64>; 2] {
    let rounded = |x: f32| f64::from(round(mode, x));
    let mut sums: Vec<f64> = (0..shape.output_len()).map(|i| bias[i % shape.k].into()).collect();
    products(shape, |ix, iw, iy| sums[iy] += rounded(x[ix]) * rounded(w[iw]));
    let added = sums.iter().zip(residual);
    let finished = added.map(|(sum, &residual)| (sum + f64::from(residual)).max(0.0)).collect();
    [sums, finished]
}

#[test]
fn dense_convolution_equals_float64() {
    let mut random = Random::new();
    for &values in SHAPES {
        let shape = shape(values);
        let x = random.vec(shape.input_len());
        let w = random.vec(shape.filter_len());
        let bias = random.vec(shape.k);
        let dy = random.vec(shape.output_len());
        let mut want_y: Vec<f64> =
            (0..shape.output_len()).map(|i| bias[i % shape.k].into()).collect();
        let (mut want_dx, mut want_dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        products(&shape, |ix, iw, iy| {
            let [x, w, dy] = [x[ix], w[iw], dy[iy]].map(f64::from);
            want_y[iy] += x * w;
            want_dx[ix] += dy * w;
            want_dw[iw] += dy * x;
        });
        for isa in Isa::available() {
            for mode in Mode::ALL {
                let what = |name| format!("{name} {values:?} {mode}, {isa:?}");
                let mut y = unwritten(want_y.len());
                conv2d::forward_on(isa, &shape, &x, &w, Some(&bias), mode, &mut y);
                check(&what("forward"), &y, &want_y, mode.tolerance());
                let mut dx = unwritten(want_dx.len());
                conv2d::backward_input_on(isa, &shape, &dy, &w, mode, &mut dx);
                check(&what("input gradient"), &dx, &want_dx, mode.tolerance());
                let mut dw = unwritten(want_dw.len());
                conv2d_weight::backward_weight_on(isa, &shape, &x, &dy, mode, &mut dw);
                check(&what("weight gradient"), &dw, &want_dw, mode.tolerance());
            }
        }
        let mut db = unwritten(shape.k);
        conv2d::backward_bias(&dy, &mut db);
        let mut want = vec![0.0; shape.k];
        dy.iter().enumerate().for_each(|(i, &dy)| want[i % shape.k] += f64::from(dy));
        check("bias gradient", &db, &want, 1e-5);
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let mut random = Random::new();
    let shape = shape([24, 16, 16, 20, 70, 3, 3, 1, 1]);
    let x = random.vec(shape.input_len());
    let w = random.vec(shape.filter_len());
    let dy = random.vec(shape.output_len());
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut found = [shape.output_len(), x.len(), w.len(), shape.k].map(unwritten);
            let [y, dx, dw, db] = &mut found;
            conv2d::forward(&shape, &x, &w, None, Mode::F32, y);
            conv2d::backward_input(&shape, &dy, &w, Mode::F32, dx);
            conv2d_weight::backward_weight(&shape, &x, &dy, Mode::F32, dw);
            conv2d::backward_bias(&dy, db);
            found
        })
    };
    let one = run(1);
    for threads in [2, 3, 7] {
        assert_eq!(one, run(threads), "{threads} threads");
    }
}
