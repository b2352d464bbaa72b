use super::conv::{products, shape};
use super::{Random, check, unwritten};
use crate::Mode;
use crate::cpu::gather::{self, PickedChannels};

#[test]
fn gathered_convolution_equals_float64() {
    let mut random = Random::new();
    for (index, all) in [(vec![6, 1, 4], 7), (vec![], 3), (vec![0, 1], 2), ((3..60).collect(), 64)]
    {
        let shape = shape([2, 6, 5, index.len(), 9, 3, 3, 2, 1]);
        let channels = PickedChannels { all, index: &index };
        let full = |i: usize| i / shape.c * all + index[i % shape.c] as usize;
        let x = random.vec(shape.n * shape.h * shape.w * all);
        let [w, bias, dy] =
            [shape.filter_len(), shape.k, shape.output_len()].map(|len| random.vec(len));
        let mut want_y: Vec<f64> = (0..dy.len()).map(|i| bias[i % shape.k].into()).collect();
        let (mut want_dx, mut want_dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        products(&shape, |ix, iw, iy| {
            let [x, w, dy] = [x[full(ix)], w[iw], dy[iy]].map(f64::from);
            want_y[iy] += x * w;
            want_dx[full(ix)] += dy * w;
            want_dw[iw] += dy * x;
        });
        let [mut y, mut dx, mut dw] = [dy.len(), x.len(), w.len()].map(unwritten);
        gather::forward(channels, &shape, &x, &w, Some(&bias), Mode::F32, &mut y);
        gather::backward_input(channels, &shape, &dy, &w, Mode::F32, &mut dx);
        gather::backward_weight(channels, &shape, &x, &dy, Mode::F32, &mut dw);
        check("forward", &y, &want_y, 1e-5);
        check("input gradient", &dx, &want_dx, 1e-5);
        check("weight gradient", &dw, &want_dw, 1e-5);
    }
}
