use super::{Random, check, unwritten};
use crate::cpu::pool2d;

#[test]
fn max_pool_keeps_the_first_maximum() {
    let x = [1.0, 3.0, 9.0, 3.0, 3.0, 9.0, 5.0, 5.0, 5.0];
    let (mut y, mut argmax) = (unwritten(1), [9]);
    pool2d::max_forward([1, 3, 3, 1], &x, &mut y, &mut argmax);
    assert_eq!((y[0], argmax[0]), (3.0, 1));
    let mut dx = unwritten(9);
    pool2d::max_backward([1, 3, 3, 1], &[7.0], &argmax, &mut dx);
    assert_eq!(dx, [0.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let nan = [0.0, f32::NAN, 2.0, f32::NAN];
    pool2d::max_forward([1, 2, 2, 1], &nan, &mut y, &mut argmax);
    assert!(y[0].is_nan() && argmax[0] == 1);
}

#[test]
fn pools_equal_float64() {
    let mut random = Random::new();
    for shape in [[2, 4, 6, 5], [1, 5, 3, 64], [3, 1, 4, 2], [0, 2, 2, 1], [1, 2, 2, 0]] {
        let [n, h, w, c] = shape;
        let (p, q) = (h / 2, w / 2);
        let x = random.vec(n * h * w * c);
        let dy = random.vec(n * p * q * c);
        let (mut y, mut argmax) = (unwritten(dy.len()), vec![9; dy.len()]);
        pool2d::max_forward(shape, &x, &mut y, &mut argmax);
        let mut dx = unwritten(x.len());
        pool2d::max_backward(shape, &dy, &argmax, &mut dx);
        let (mut want_y, mut want_dx) = (vec![f64::NEG_INFINITY; y.len()], vec![0.0; x.len()]);
        for out in 0..y.len() {
            let (i, j, pixel, image) = (out % c, out / c % q, out / (c * q) % p, out / (c * q * p));
            let window = [(0, 0), (0, 1), (1, 0), (1, 1)]
                .map(|(dr, ds)| ((image * h + 2 * pixel + dr) * w + 2 * j + ds) * c + i);
            let best = window.into_iter().rev().max_by(|&a, &b| x[a].total_cmp(&x[b])).unwrap();
            want_y[out] = x[best].into();
            want_dx[best] = dy[out].into();
        }
        check("max", &y, &want_y, 0.0);
        check("max gradient", &dx, &want_dx, 0.0);
        let mut mean = unwritten(n * c);
        pool2d::mean_forward([n, h * w, c], &x, &mut mean);
        let mut want = vec![0.0; n * c];
        let place = |i: usize| i / (h * w * c) * c + i % c;
        x.iter().enumerate().for_each(|(i, &x)| want[place(i)] += f64::from(x) / (h * w) as f64);
        check("mean", &mean, &want, 1e-5);
        let dy = random.vec(n * c);
        pool2d::mean_backward([n, h * w, c], &dy, &mut dx);
        let want: Vec<f64> =
            (0..x.len()).map(|i| f64::from(dy[place(i)]) / (h * w) as f64).collect();
        check("mean gradient", &dx, &want, 1e-6);
    }
}
