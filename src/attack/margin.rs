//! The margin `f_y − max_{j≠y} f_j` of the true class y, of the logits or of the probabilities of one image.

/// What the network is taken to put out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// f = z.
    Logits,
    /// f = softmax(z): what an attack sees of a network that ends in a softmax. Its gradient vanishes where the network
    /// is certain.
    Probabilities,
}

impl Output {
    /// The margin; `gradient` receives its derivatives with respect to the logits `z`. Infinite, and no derivative,
    /// where there is no other class.
    pub(super) fn margin(self, z: &[f32], label: usize, gradient: &mut [f32]) -> f32 {
        gradient.fill(0.0);
        let Some(other) = likeliest_other(z, label) else { return f32::INFINITY };
        if self == Self::Logits {
            gradient[label] = 1.0;
            gradient[other] = -1.0;
            return z[label] - z[other];
        }
        let p: Vec<f64> = log_softmax(z).into_iter().map(f64::exp).collect();
        let margin = p[label] - p[other];
        for (i, (g, p_i)) in gradient.iter_mut().zip(&p).enumerate() {
            let own = f64::from(u8::from(i == label)) * p[label];
            let others = f64::from(u8::from(i == other)) * p[other];
            *g = (own - others - p_i * margin) as f32;
        }
        margin as f32
    }
}

/// Whether another class leads by more than rounding can take back: batches of another size may add in another order.
pub(super) fn fooled(z: &[f32], label: usize) -> bool {
    let slack = 1e-5 * (1.0 + z[label].abs());
    likeliest_other(z, label).is_some_and(|other| z[label] + slack < z[other])
}

/// `log softmax(z)`.
pub(super) fn log_softmax(z: &[f32]) -> Vec<f64> {
    let max = f64::from(z.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = z.iter().map(|&z| (f64::from(z) - max).exp()).sum();
    z.iter().map(|&z| f64::from(z) - max - sum.ln()).collect()
}

/// The class of the largest logit but for `label`; the first of equal ones.
pub(super) fn likeliest_other(z: &[f32], label: usize) -> Option<usize> {
    let others = (0..z.len()).filter(|&class| class != label);
    others.reduce(|best, class| if z[class] > z[best] { class } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    #[test]
    fn gradients_are_differences_of_the_margin() {
        let philox = Seed(5).stream("logits", 0, 0);
        for case in 0..40 {
            let z: Vec<f32> =
                (0..2 + case % 6).map(|i| 2.0 * philox.normal(16 * case + i)).collect();
            let label = case % z.len();
            for output in [Output::Logits, Output::Probabilities] {
                let mut gradient = vec![0.0; z.len()];
                output.margin(&z, label, &mut gradient);
                // In f64, at the other class of z: the kink where two classes change places has no derivative.
                let other = likeliest_other(&z, label).unwrap();
                let value = |moved: usize, by: f64| {
                    let at = |i: usize| f64::from(z[i]) + if i == moved { by } else { 0.0 };
                    let sum: f64 = (0..z.len()).map(|i| at(i).exp()).sum();
                    match output {
                        Output::Logits => at(label) - at(other),
                        Output::Probabilities => (at(label).exp() - at(other).exp()) / sum,
                    }
                };
                for (i, &g) in gradient.iter().enumerate() {
                    let want = (value(i, 1e-5) - value(i, -1e-5)) / 2e-5;
                    assert!(
                        (f64::from(g) - want).abs() < 1e-6,
                        "{output:?} {z:?} {i}: {g}, {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_lead_within_rounding_fools_nobody() {
        assert!(fooled(&[1.0, 1.1], 0) && !fooled(&[1.0, 1.1], 1));
        assert!(!fooled(&[1.0, 1.000_001], 0) && !fooled(&[1.0, f32::NAN], 0));
        assert!(!fooled(&[1.0], 0));
        assert_eq!(Output::Logits.margin(&[1.0], 0, &mut [0.0]), f32::INFINITY);
    }
}
