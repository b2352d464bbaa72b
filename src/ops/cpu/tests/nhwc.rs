use super::conv::{SHAPES, products, shape};
use super::{Random, check, unwritten};
use crate::Mode;
use crate::ops::cpu::nhwc::{Isa, NhwcConv};
use crate::ops::cpu::round::round;

/// Planes of one tile and of many, channels that fill vectors and that do not; n, h, w, c, k, r, s, stride, pad.
const MORE: &[[usize; 9]] = &[
    [1, 9, 9, 5, 40, 3, 3, 1, 1],
    [1, 4, 4, 8, 72, 3, 3, 1, 1],
    [2, 7, 5, 6, 144, 3, 3, 2, 1],
    [1, 2, 2, 9, 64, 5, 5, 1, 2],
    [1, 1, 1, 30, 10, 1, 1, 1, 0],
];

#[test]
fn convolution_equals_float64() {
    let mut random = Random::new();
    for &values in SHAPES.iter().chain(MORE) {
        let shape = shape(values);
        let x = random.vec(shape.input_len());
        let w = random.vec(shape.filter_len());
        let bias = random.vec(shape.k);
        let residual = random.vec(shape.output_len());
        // Operands are rounded to the mode, so what is left is the rounding of the sums.
        let sums = |mode: Mode, added: &[f32]| {
            let start = |i: usize| f64::from(bias[i % shape.k]) + f64::from(added[i]);
            let mut want: Vec<f64> = (0..shape.output_len()).map(start).collect();
            let rounded = |x: f32| f64::from(round(mode, x));
            products(&shape, |ix, iw, iy| want[iy] += rounded(x[ix]) * rounded(w[iw]));
            want
        };
        let none = vec![0.0; shape.output_len()];
        let wants = Mode::ALL.map(|mode| {
            let finished: Vec<f64> =
                sums(mode, &residual).into_iter().map(|y| y.max(0.0)).collect();
            (mode, sums(mode, &none), finished)
        });
        for isa in Isa::available() {
            for (mode, plain, finished) in &wants {
                let mode = *mode;
                let what = |name| format!("{name} {values:?} {mode}, {} lanes", isa.lanes());
                let mut y = unwritten(residual.len());
                NhwcConv::new_on(isa, &shape, &w, &bias, false, mode).run(&x, None, &mut y);
                check(&what("sums"), &y, plain, 1e-5);
                let mut y = unwritten(residual.len());
                let conv = NhwcConv::new_on(isa, &shape, &w, &bias, true, mode);
                conv.run(&x, Some(&residual), &mut y);
                check(&what("finished"), &y, finished, 1e-5);
            }
        }
    }
}
