use super::conv::{SHAPES, products, shape};
use super::{Random, check, unwritten};
use crate::Mode;
use crate::ops::cpu::nhwc::{Isa, NhwcConv};

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
        let sums = |added: &[f32]| {
            let start = |i: usize| f64::from(bias[i % shape.k]) + f64::from(added[i]);
            let mut want: Vec<f64> = (0..shape.output_len()).map(start).collect();
            products(&shape, |ix, iw, iy| want[iy] += f64::from(x[ix]) * f64::from(w[iw]));
            want
        };
        let plain = sums(&vec![0.0; shape.output_len()]);
        let finished: Vec<f64> = sums(&residual).into_iter().map(|y| y.max(0.0)).collect();
        for isa in Isa::available() {
            for mode in Mode::ALL {
                let what = |name| format!("{name} {values:?} {mode}, {} lanes", isa.lanes());
                let mut y = unwritten(residual.len());
                NhwcConv::new_on(isa, &shape, &w, &bias, false, mode).run(&x, None, &mut y);
                check(&what("sums"), &y, &plain, mode.tolerance());
                let mut y = unwritten(residual.len());
                let conv = NhwcConv::new_on(isa, &shape, &w, &bias, true, mode);
                conv.run(&x, Some(&residual), &mut y);
                check(&what("finished"), &y, &finished, mode.tolerance());
            }
        }
    }
}
