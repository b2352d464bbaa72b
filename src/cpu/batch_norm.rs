//! Batch normalisation over rows of `c` channels: `y = (x − mean) · invstd · gamma + beta`.
//!
//! Sums run over pieces of [`PIECE`] elements in f32, over the pieces in f64.

use rayon::prelude::*;

/// Elements of a piece: it stays in the cache between two passes.
const PIECE: usize = 1 << 14;

/// Rows of `c` elements in a piece.
fn piece(c: usize) -> usize {
    (PIECE / c.max(1)).max(1) * c.max(1)
}

/// Mean and biased variance of each channel; both 0 where there is no row.
///
/// Source: Chan, Golub & LeVeque 1983 (merging of means and squared deviations).
pub(crate) fn statistics(x: &[f32], mean: &mut [f32], var: &mut [f32]) {
    let c = mean.len();
    assert!(var.len() == c && (c == 0 && x.is_empty() || x.len().is_multiple_of(c.max(1))));
    mean.fill(0.0);
    var.fill(0.0);
    if x.is_empty() {
        return;
    }
    let parts: Vec<[Vec<f32>; 2]> = x.par_chunks(piece(c)).map(|x| moments(x, c)).collect();
    let rows = |index: usize| (x.len() - index * piece(c)).min(piece(c)) / c;
    let total = (x.len() / c) as f64;
    let mut sums = vec![0.0f64; c];
    for (index, [mean, _]) in parts.iter().enumerate() {
        let rows = rows(index) as f64;
        sums.iter_mut().zip(mean).for_each(|(sum, &mean)| *sum += rows * f64::from(mean));
    }
    sums.iter_mut().for_each(|sum| *sum /= total);
    let mut squares = vec![0.0f64; c];
    for (index, [mean, square]) in parts.iter().enumerate() {
        let rows = rows(index) as f64;
        for i in 0..c {
            let off = f64::from(mean[i]) - sums[i];
            squares[i] += f64::from(square[i]) + rows * off * off;
        }
    }
    mean.iter_mut().zip(&sums).for_each(|(mean, &sum)| *mean = sum as f32);
    var.iter_mut().zip(&squares).for_each(|(var, &square)| *var = (square / total) as f32);
}

/// Mean and sum of squared deviations from it. The mean is summed from the first row on, so that a constant channel,
/// the map of a filter without weights, has exactly its value and no deviation for 1/√eps to amplify.
fn moments(x: &[f32], c: usize) -> [Vec<f32>; 2] {
    let (mut mean, mut square) = (vec![0.0f32; c], vec![0.0f32; c]);
    let first = &x[..c];
    for x in x.chunks_exact(c) {
        mean.iter_mut()
            .zip(x.iter().zip(first))
            .for_each(|(mean, (&x, &first))| *mean += x - first);
    }
    let scale = 1.0 / (x.len() / c) as f32;
    mean.iter_mut().zip(first).for_each(|(mean, &first)| *mean = first + *mean * scale);
    for x in x.chunks_exact(c) {
        for ((square, &mean), &x) in square.iter_mut().zip(&mean).zip(x) {
            *square += (x - mean) * (x - mean);
        }
    }
    [mean, square]
}

/// `invstd = 1 / √(var + eps)`.
pub(crate) fn inverse_deviation(var: &[f32], eps: f32, invstd: &mut [f32]) {
    invstd.iter_mut().zip(var).for_each(|(invstd, &var)| *invstd = 1.0 / (var + eps).sqrt());
}

/// Per-channel constants of the normalisation.
#[derive(Clone, Copy)]
pub(crate) struct ChannelNorm<'a> {
    /// Of this batch in training, running in evaluation.
    pub(crate) mean: &'a [f32],
    /// See [`inverse_deviation`].
    pub(crate) invstd: &'a [f32],
    /// Scale.
    pub(crate) gamma: &'a [f32],
}

impl ChannelNorm<'_> {
    fn channels(&self) -> usize {
        assert!(self.mean.len() == self.gamma.len() && self.invstd.len() == self.gamma.len());
        self.gamma.len()
    }

    /// `gamma · invstd`.
    fn scale(&self) -> Vec<f32> {
        self.gamma.iter().zip(self.invstd).map(|(gamma, invstd)| gamma * invstd).collect()
    }

    /// `y = (x − mean) · invstd · gamma + beta`.
    pub(crate) fn forward(&self, x: &[f32], beta: &[f32], y: &mut [f32]) {
        let c = self.channels();
        assert!(x.len() == y.len() && beta.len() == c);
        let scale = self.scale();
        y.par_chunks_mut(piece(c)).zip(x.par_chunks(piece(c))).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                let channels = self.mean.iter().zip(&scale).zip(beta);
                for ((y, &x), ((&mean, &scale), &beta)) in y.iter_mut().zip(x).zip(channels) {
                    *y = (x - mean) * scale + beta;
                }
            }
        });
    }

    /// `dgamma = Σ dy · x̂` and `dbeta = Σ dy`, with `x̂ = (x − mean) · invstd`.
    pub(crate) fn backward_parameters(
        &self,
        x: &[f32],
        dy: &[f32],
        dgamma: &mut [f32],
        dbeta: &mut [f32],
    ) {
        let c = self.channels();
        assert!(x.len() == dy.len() && dgamma.len() == c && dbeta.len() == c);
        let pieces = x.par_chunks(piece(c)).zip(dy.par_chunks(piece(c)));
        let parts: Vec<[Vec<f32>; 2]> = pieces
            .map(|(x, dy)| {
                let (mut product, mut sum) = (vec![0.0f32; c], vec![0.0f32; c]);
                for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
                    let sums = product.iter_mut().zip(&mut sum).zip(self.mean);
                    for (((product, sum), &mean), (&x, &dy)) in sums.zip(x.iter().zip(dy)) {
                        *product += dy * (x - mean);
                        *sum += dy;
                    }
                }
                [product, sum]
            })
            .collect();
        let mut totals = vec![[0.0f64; 2]; c];
        for [product, sum] in &parts {
            for (total, (&product, &sum)) in totals.iter_mut().zip(product.iter().zip(sum)) {
                total[0] += f64::from(product);
                total[1] += f64::from(sum);
            }
        }
        for (i, [product, sum]) in totals.into_iter().enumerate() {
            dgamma[i] = (product * f64::from(self.invstd[i])) as f32;
            dbeta[i] = sum as f32;
        }
    }

    /// Input gradient where mean and variance are this batch's:
    /// `dx = gamma · invstd · (dy − dbeta/rows − x̂ · dgamma/rows)`.
    pub(crate) fn backward_input(
        &self,
        x: &[f32],
        dy: &[f32],
        dgamma: &[f32],
        dbeta: &[f32],
        dx: &mut [f32],
    ) {
        let c = self.channels();
        assert!(x.len() == dy.len() && dx.len() == x.len());
        assert!(dgamma.len() == c && dbeta.len() == c);
        if x.is_empty() {
            return;
        }
        let per_row = 1.0 / (x.len() / c) as f32;
        let scale = self.scale();
        let shift: Vec<f32> = dbeta.iter().map(|dbeta| dbeta * per_row).collect();
        let slope: Vec<f32> = dgamma
            .iter()
            .zip(self.invstd)
            .map(|(dgamma, invstd)| dgamma * invstd * per_row)
            .collect();
        let pieces = dx.par_chunks_mut(piece(c)).zip(x.par_chunks(piece(c)));
        pieces.zip(dy.par_chunks(piece(c))).for_each(|((dx, x), dy)| {
            let rows = dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c));
            for ((dx, x), dy) in rows {
                let channels = self.mean.iter().zip(&scale).zip(shift.iter().zip(&slope));
                for (((dx, &x), &dy), ((&mean, &scale), (&shift, &slope))) in
                    dx.iter_mut().zip(x).zip(dy).zip(channels)
                {
                    *dx = scale * (dy - shift - (x - mean) * slope);
                }
            }
        });
    }

    /// Input gradient where mean and variance are constants: `dx = gamma · invstd · dy`.
    pub(crate) fn backward_input_frozen(&self, dy: &[f32], dx: &mut [f32]) {
        let c = self.channels();
        assert!(dx.len() == dy.len());
        let scale = self.scale();
        dx.par_chunks_mut(piece(c)).zip(dy.par_chunks(piece(c))).for_each(|(dx, dy)| {
            for (dx, dy) in dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)) {
                dx.iter_mut().zip(dy).zip(&scale).for_each(|((dx, &dy), &scale)| *dx = dy * scale);
            }
        });
    }
}
