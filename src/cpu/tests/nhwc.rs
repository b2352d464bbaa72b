use super::conv::{SHAPES, layer, shape};
use super::{Random, check, unwritten};
use crate::Mode;
use crate::cpu::isa::Isa;
use crate::cpu::nhwc::NhwcConv;

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
        let wants = Mode::ALL.map(|mode| layer(&shape, mode, [&x, &w, &bias, &residual]));
        for isa in Isa::available() {
            for (mode, [plain, finished]) in Mode::ALL.into_iter().zip(&wants) {
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
