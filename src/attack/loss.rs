//! Losses of one image's logits z, with their gradients: what [`super::Network::logits_and_gradient`] carries on to
//! the pixels.

/// Cross-entropy `log Σ_k exp z_k − z_class`; `gradient` receives `softmax(z) − onehot(class)`.
///
/// Computed in f64: for a class that is certain, `softmax − 1` would be 0 in f32.
pub(super) fn cross_entropy(z: &[f32], class: usize, gradient: &mut [f32]) -> f32 {
    let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp = |z: f32| (f64::from(z) - f64::from(max)).exp();
    let sum: f64 = z.iter().map(|&z| exp(z)).sum();
    let others: f64 = z.iter().enumerate().filter(|(i, _)| *i != class).map(|(_, &z)| exp(z)).sum();
    for (i, (out, &z)) in gradient.iter_mut().zip(z).enumerate() {
        *out = (if i == class { -others } else { exp(z) } / sum) as f32;
    }
    (sum.ln() - f64::from(z[class]) + f64::from(max)) as f32
}

/// Targeted difference of logits ratio: `(z_target − z_label) / (z_(1) − (z_(3) + z_(4))/2)`, z_(k) the k-th largest
/// logit. Neither shift nor scale of the logits changes it. At least four classes.
///
/// Source: Croce & Hein 2020, arXiv 2003.01690, equation 7; 1e-12 keeps the ratio finite.
pub(super) fn dlr(z: &[f32], label: usize, target: usize, gradient: &mut [f32]) -> f32 {
    let mut order: Vec<usize> = (0..z.len()).collect();
    order.sort_by(|&a, &b| z[b].total_cmp(&z[a]));
    let [first, third, fourth] = [order[0], order[2], order[3]];
    let z = |class: usize| f64::from(z[class]);
    let scale = z(first) - 0.5 * (z(third) + z(fourth)) + 1e-12;
    let ratio = (z(target) - z(label)) / scale;
    gradient.fill(0.0);
    for (class, part) in
        [(target, 1.0), (label, -1.0), (first, -ratio), (third, 0.5 * ratio), (fourth, 0.5 * ratio)]
    {
        gradient[class] += (part / scale) as f32;
    }
    ratio as f32
}

/// `z_label − max over the other classes`: not above 0 where the image is classified wrongly.
pub(super) fn margin(z: &[f32], label: usize) -> f32 {
    let others = z.iter().enumerate().filter(|(class, _)| *class != label);
    z[label] - others.map(|(_, &z)| z).fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    /// Central differences of a function of one logit at a time.
    fn differences(z: &[f32], f: impl Fn(&[f32]) -> f64) -> Vec<f64> {
        let moved = |class: usize, by: f32| {
            let mut z = z.to_vec();
            z[class] += by;
            (f(&z), f64::from(z[class]))
        };
        let slope = |class: usize| {
            let ((above, high), (below, low)) = (moved(class, 1e-3), moved(class, -1e-3));
            (above - below) / (high - low)
        };
        (0..z.len()).map(slope).collect()
    }

    fn assert_close(got: &[f32], want: &[f64], what: &str) {
        let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
        let norm: f64 = want.iter().map(|w| w * w).sum();
        assert!((error / norm).sqrt() < 1e-5, "{what}: {got:?}, not {want:?}");
    }

    #[test]
    fn the_ratio_and_its_gradient_are_those_of_the_formula() {
        // By hand: (2 − 5) / (5 − (2 + 1)/2).
        let mut gradient = [0.0f32; 5];
        let value = dlr(&[1.0, 5.0, 2.0, 3.0, -1.0], 1, 2, &mut gradient);
        assert!((value + 3.0 / 3.5).abs() < 1e-6, "{value}");
        let philox = Seed(11).stream("logits", 0, 0);
        let mut compared = 0;
        for case in 0..50 {
            let classes = 4 + case % 7;
            let z: Vec<f32> = (0..classes).map(|i| 3.0 * philox.normal(16 * case + i)).collect();
            let exact = |z: &[f32], label: usize, target: usize| {
                let mut sorted: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
                sorted.sort_by(|a, b| b.total_cmp(a));
                let scale = sorted[0] - (sorted[2] + sorted[3]) / 2.0 + 1e-12;
                (f64::from(z[target]) - f64::from(z[label])) / scale
            };
            let gaps = |z: &[f32]| {
                let mut z = z.to_vec();
                z.sort_by(f32::total_cmp);
                z.windows(2).map(|pair| pair[1] - pair[0]).fold(f32::INFINITY, f32::min)
            };
            if gaps(&z) < 5e-3 {
                continue;
            }
            compared += 1;
            for (label, target) in [(0, 1), (1, 0), (2, 3), (classes - 1, 2)] {
                let mut gradient = vec![0.0f32; classes];
                let value = dlr(&z, label, target, &mut gradient);
                assert!((f64::from(value) - exact(&z, label, target)).abs() < 1e-5);
                let want = differences(&z, |z| exact(z, label, target));
                assert_close(&gradient, &want, &format!("{label} to {target} at {z:?}"));
                let moved: Vec<f32> = z.iter().map(|z| 4.0 * z + 8.0).collect();
                let same = dlr(&moved, label, target, &mut gradient);
                assert!((same - value).abs() < 1e-5 * value.abs().max(1.0), "{same} {value}");
            }
        }
        assert!(compared > 40, "{compared} of 50");
    }

    #[test]
    fn a_certain_class_still_has_a_gradient() {
        let mut gradient = [0.0f32; 3];
        let loss = cross_entropy(&[60.0, 0.0, 1.0], 0, &mut gradient);
        assert!(loss >= 0.0 && gradient[0] < 0.0 && gradient[2] > gradient[1], "{gradient:?}");
        let z = [0.5, -1.0, 2.0, 0.0];
        cross_entropy(&z, 1, &mut [0.0; 4]);
        let mut gradient = [0.0f32; 4];
        cross_entropy(&z, 1, &mut gradient);
        let exact = |z: &[f32]| {
            let sum: f64 = z.iter().map(|&z| f64::from(z).exp()).sum();
            sum.ln() - f64::from(z[1])
        };
        assert_close(&gradient, &differences(&z, exact), "cross-entropy");
        assert_eq!(margin(&z, 2), 1.5);
        assert_eq!(margin(&z, 1), -3.0);
    }
}
