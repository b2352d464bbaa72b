use super::conv::{SHAPES, products, shape};
use super::{Random, check, unwritten};
use crate::Mode;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::isa::Isa;
use crate::cpu::sparse::{self, KeptWeights};

/// Share of kept weights, in percent.
const DENSITIES: [u64; 4] = [0, 3, 40, 100];

/// More images, so that lanes are filled, half filled and left over.
const BATCHES: &[[usize; 9]] = &[
    [16, 5, 6, 4, 6, 3, 3, 1, 1],
    [37, 4, 4, 5, 40, 3, 3, 1, 1],
    [130, 2, 2, 9, 8, 3, 3, 1, 1],
    [64, 8, 9, 3, 5, 3, 3, 2, 1],
    [17, 5, 5, 8, 9, 1, 1, 2, 0],
    [18, 7, 7, 2, 3, 2, 3, 3, 2],
];

#[test]
fn sparse_convolution_equals_float64() {
    let mut random = Random::new();
    for &values in SHAPES.iter().chain(BATCHES) {
        for density in DENSITIES {
            let shape = shape(values);
            let mask = mask(&mut random, shape.filter_len(), density);
            compare(&mut random, &shape, &mask, &format!("{values:?} {density} %"));
        }
    }
}

/// About `density` percent, but 16 weights at least where any are kept: the gradient of one or two can be a sum that
/// cancels to nearly 0, of which no relative error is small.
fn mask(random: &mut Random, len: usize, density: u64) -> Vec<u8> {
    let mut mask: Vec<u8> = (0..len).map(|_| u8::from(random.next() % 100 < density)).collect();
    if density > 0 && len >= 16 {
        (0..16).for_each(|i| mask[i * (len / 16)] = 1);
    }
    mask
}

fn compare(random: &mut Random, shape: &ConvShape, mask: &[u8], what: &str) {
    let filter = KeptWeights::new(shape, mask);
    assert_eq!(filter.kept(), mask.iter().filter(|&&kept| kept != 0).count());
    let x = random.vec(shape.input_len());
    let w = random.vec(shape.filter_len());
    let bias = random.vec(shape.k);
    let dy = random.vec(shape.output_len());
    let mut want_y: Vec<f64> = (0..dy.len()).map(|i| bias[i % shape.k].into()).collect();
    let (mut want_dx, mut want_dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    products(shape, |ix, iw, iy| {
        if mask[iw] != 0 {
            let [x, w, dy] = [x[ix], w[iw], dy[iy]].map(f64::from);
            want_y[iy] += x * w;
            want_dx[ix] += dy * w;
            want_dw[iw] += dy * x;
        }
    });
    for isa in Isa::available() {
        for mode in Mode::ALL {
            let what = |name| format!("{name} {what} {mode}, {} lanes", isa.lanes());
            let mut y = unwritten(dy.len());
            sparse::forward_on(isa, &filter, shape, &x, &w, Some(&bias), mode, &mut y);
            check(&what("forward"), &y, &want_y, mode.tolerance());
            let mut dx = unwritten(x.len());
            sparse::backward_input_on(isa, &filter, shape, &dy, &w, mode, &mut dx);
            check(&what("input gradient"), &dx, &want_dx, mode.tolerance());
            let mut dw = unwritten(w.len());
            sparse::weight::backward_weight_on(isa, &filter, shape, &x, &dy, mode, &mut dw);
            check(&what("weight gradient"), &dw, &want_dw, mode.tolerance());
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let mut random = Random::new();
    let shape = shape([40, 8, 8, 20, 70, 3, 3, 1, 1]);
    let mask: Vec<u8> =
        (0..shape.filter_len()).map(|_| u8::from(random.next().is_multiple_of(9))).collect();
    let filter = KeptWeights::new(&shape, &mask);
    let [x, w, dy] =
        [shape.input_len(), shape.filter_len(), shape.output_len()].map(|len| random.vec(len));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut found = [dy.len(), x.len(), w.len()].map(unwritten);
            let [y, dx, dw] = &mut found;
            sparse::forward(&filter, &shape, &x, &w, None, Mode::F32, y);
            sparse::backward_input(&filter, &shape, &dy, &w, Mode::F32, dx);
            sparse::backward_weight(&filter, &shape, &x, &dy, Mode::F32, dw);
            found
        })
    };
    let one = run(1);
    for threads in [2, 5] {
        assert_eq!(one, run(threads), "{threads} threads");
    }
}
