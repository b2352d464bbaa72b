use super::{Random, check, unwritten};
use crate::cpu::batch_norm::{ChannelNorm, inverse_deviation, statistics};

const EPS: f32 = 1e-5;

/// Mean and biased variance of each channel.
fn moments(x: &[f32], c: usize) -> [Vec<f64>; 2] {
    let rows = (x.len() / c) as f64;
    let mut mean = vec![0.0; c];
    x.iter().enumerate().for_each(|(i, &x)| mean[i % c] += f64::from(x) / rows);
    let mut var = vec![0.0; c];
    x.iter()
        .enumerate()
        .for_each(|(i, &x)| var[i % c] += (f64::from(x) - mean[i % c]).powi(2) / rows);
    [mean, var]
}

#[test]
fn batch_norm_equals_float64() {
    let mut random = Random::new();
    for (rows, c) in [(16, 3), (1, 5), (4096, 64), (1000, 17), (37, 512)] {
        let what = |name| format!("{name} {rows} x {c}");
        // A mean far from 0 shows cancellation.
        let x: Vec<f32> = random.vec(rows * c).iter().map(|x| x + 10.0).collect();
        let (dy, gamma, beta) = (random.vec(rows * c), random.vec(c), random.vec(c));
        let [mut mean, mut var, mut invstd, mut dgamma, mut dbeta] = [(); 5].map(|()| unwritten(c));
        let [mut y, mut dx] = [(); 2].map(|()| unwritten(x.len()));
        statistics(&x, &mut mean, &mut var);
        inverse_deviation(&var, EPS, &mut invstd);
        let norm = ChannelNorm { mean: &mean, invstd: &invstd, gamma: &gamma };
        norm.forward(&x, &beta, &mut y);
        norm.backward_parameters(&x, &dy, &mut dgamma, &mut dbeta);
        norm.backward_input(&x, &dy, &dgamma, &dbeta, &mut dx);

        let [want_mean, want_var] = moments(&x, c);
        check(&what("mean"), &mean, &want_mean, 1e-6);
        if rows > 1 {
            check(&what("variance"), &var, &want_var, 1e-5);
        }
        let scale: Vec<f64> =
            want_var.iter().map(|var| 1.0 / (var + f64::from(EPS)).sqrt()).collect();
        let hat: Vec<f64> =
            (0..x.len()).map(|i| (f64::from(x[i]) - want_mean[i % c]) * scale[i % c]).collect();
        let want: Vec<f64> = (0..x.len())
            .map(|i| hat[i] * f64::from(gamma[i % c]) + f64::from(beta[i % c]))
            .collect();
        check(&what("y"), &y, &want, 1e-5);
        let (mut want_dgamma, mut want_dbeta) = (vec![0.0; c], vec![0.0; c]);
        for i in 0..x.len() {
            want_dgamma[i % c] += f64::from(dy[i]) * hat[i];
            want_dbeta[i % c] += f64::from(dy[i]);
        }
        check(&what("dgamma"), &dgamma, &want_dgamma, 1e-5);
        check(&what("dbeta"), &dbeta, &want_dbeta, 1e-5);
        let m = rows as f64;
        let want: Vec<f64> = (0..x.len())
            .map(|i| {
                let centred =
                    f64::from(dy[i]) - want_dbeta[i % c] / m - hat[i] * want_dgamma[i % c] / m;
                f64::from(gamma[i % c]) * scale[i % c] * centred
            })
            .collect();
        if rows > 2 {
            check(&what("dx"), &dx, &want, 1e-5);
        }
        norm.backward_input_frozen(&dy, &mut dx);
        let want: Vec<f64> = (0..x.len())
            .map(|i| f64::from(gamma[i % c]) * scale[i % c] * f64::from(dy[i]))
            .collect();
        check(&what("frozen dx"), &dx, &want, 1e-5);
    }
}

#[test]
fn an_empty_batch_has_no_statistics() {
    let [mut mean, mut var] = [(); 2].map(|()| unwritten(3));
    statistics(&[], &mut mean, &mut var);
    assert_eq!([mean, var], [[0.0; 3]; 2]);
}
