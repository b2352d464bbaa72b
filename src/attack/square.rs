//! Square attack in the L∞ ball: random search that sees logits only. Of f = z_label − max over the others, it keeps
//! what is smaller.
//!
//! The first query is x with vertical stripes, one pixel wide, ±eps by column and channel. Every further one takes a
//! square of side s = √(p·H·W), rounded and at most the shorter side of the image, at a uniform place inside, and
//! adds ±2·eps to it, one sign a channel; the result is projected onto the ball and [0, 1]. It replaces the best so
//! far where f is smaller or the image is classified wrongly. p is 0.8 and halves after 10, 50, 200, 500, 1000, 2000,
//! 4000, 6000 and 8000 proposals, whatever the budget, as in AutoAttack. An image that is classified wrongly is done,
//! in training and on a network with noise it goes on. Each image has its own random numbers. The steps are the
//! queries.
//!
//! Source: Andriushchenko et al. 2020, arXiv 1912.00049. Their program shares places and signs over a batch, and its
//! squares never touch the last row and column.

use super::per_image::{rows, wrong};
use super::{AttackEntry, Case, Norm, Search, loss};
use crate::{Result, Tensor};
use rand::Rng;
use rand::rngs::ChaCha8Rng;
use rayon::prelude::*;

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "square",
    summary: "black box: random squares, kept where the margin shrinks",
    source: "arXiv 1912.00049",
    norm: Norm::Linf,
    search: Search::Ball,
    steps: 5000,
    reads: &["steps", "random_start", "restarts"],
    resolve: |settings| settings.step_size = None,
    perturb,
};

/// The search for one image.
struct Chase<'a> {
    origin: &'a [f32],
    label: usize,
    draws: ChaCha8Rng,
    best: Vec<f32>,
    margin: f32,
}

fn perturb(case: &Case) -> Result<Tensor> {
    let labels = case.true_classes()?;
    let (pixels, size) = case.pixels()?;
    let [_, h, w, c] = case.x.dims4("square", "x")?;
    let eps = case.settings.eps.value();
    let chase = |((origin, &label), &image)| Chase {
        origin,
        label,
        draws: case.draws.host(image),
        best: <[f32]>::to_vec(origin),
        margin: f32::INFINITY,
    };
    let images = pixels.chunks(size.max(1)).zip(&labels).zip(case.images);
    let mut chases: Vec<Chase> = images.map(chase).collect();
    let mut open: Vec<&mut Chase> = chases.iter_mut().collect();
    for query in 0..case.settings.steps() {
        if open.is_empty() {
            break;
        }
        let propose = |chase: &mut &mut Chase| match query {
            0 if case.settings.random_start => chase.stripes([w, c], eps),
            0 => chase.origin.to_vec(),
            _ => chase.square([h, w, c], side(query - 1, h, w), eps),
        };
        let proposals: Vec<Vec<f32>> = open.par_iter_mut().map(propose).collect();
        look(case, &mut open, proposals)?;
    }
    case.batch(chases.iter().map(|chase| &chase.best[..]))
}

/// Asks the network, keeps what is better, and drops what has fallen.
fn look(case: &Case, open: &mut Vec<&mut Chase>, proposals: Vec<Vec<f32>>) -> Result<()> {
    let x = case.batch(proposals.iter().map(|proposal| &proposal[..]))?;
    let logits = case.network.logits(&x)?.to_vec::<f32>()?;
    let labels: Vec<usize> = open.iter().map(|chase| chase.label).collect();
    let wrong = wrong(&logits, &labels)?;
    let ends = |wrong: bool| wrong && case.ends_when_wrong();
    let answers = rows(&logits, open.len()).zip(proposals).zip(&wrong);
    for (chase, ((z, proposal), &wrong)) in open.iter_mut().zip(answers) {
        let margin = loss::margin(z, chase.label);
        if margin < chase.margin || ends(wrong) {
            (chase.margin, chase.best) = (margin, proposal);
        }
    }
    let mut wrong = wrong.into_iter();
    open.retain(|_| !wrong.next().is_some_and(ends));
    Ok(())
}

/// The side of the square after `proposals` others, for images of h rows and w columns.
fn side(proposals: usize, h: usize, w: usize) -> usize {
    let halvings = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000];
    let halvings = halvings.iter().filter(|&&after| proposals > after).count();
    let p = 0.8 / f64::from(1u32 << halvings);
    let side = (p * (h * w) as f64).sqrt().round_ties_even() as usize;
    side.clamp(1, h.min(w).max(1))
}

impl Chase<'_> {
    fn stripes(&mut self, [w, c]: [usize; 2], eps: f32) -> Vec<f32> {
        let signs: Vec<f32> = (0..w * c).map(|_| self.sign()).collect();
        let pixels = self.origin.iter().zip(signs.iter().cycle());
        pixels.map(|(x, sign)| (x + eps * sign).clamp(0.0, 1.0)).collect()
    }

    fn square(&mut self, [h, w, c]: [usize; 3], side: usize, eps: f32) -> Vec<f32> {
        let [top, left] = [h, w].map(|length| self.below(length - side + 1));
        let signs: Vec<f32> = (0..c).map(|_| self.sign()).collect();
        let mut proposal = self.best.clone();
        for row in top..top + side {
            let pixels = (row * w + left) * c..(row * w + left + side) * c;
            let places = proposal[pixels.clone()].iter_mut().zip(&self.origin[pixels]);
            for ((y, x), sign) in places.zip(signs.iter().cycle()) {
                *y = (*y + 2.0 * eps * sign).max(x - eps).min(x + eps).clamp(0.0, 1.0);
            }
        }
        proposal
    }

    fn sign(&mut self) -> f32 {
        if self.draws.next_u32() >> 31 == 0 { -1.0 } else { 1.0 }
    }

    /// Uniform in 0..len.
    fn below(&mut self, len: usize) -> usize {
        ((u64::from(self.draws.next_u32()) * len as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_shrink_by_the_published_schedule() {
        // √(0.8·2⁻ᵏ·784): 25.04, 17.71, 12.52, 8.85, 6.26, 4.43, 3.13, 2.21, 1.57, 1.11.
        for (proposals, want) in [
            (0, 25),
            (10, 25),
            (11, 18),
            (50, 18),
            (51, 13),
            (200, 13),
            (201, 9),
            (500, 9),
            (501, 6),
            (1000, 6),
            (1001, 4),
            (2001, 3),
            (4001, 2),
            (6001, 2),
            (8001, 1),
            (100_000, 1),
        ] {
            assert_eq!(side(proposals, 28, 28), want, "after {proposals}");
        }
        // A wide image of few rows; a single pixel.
        assert_eq!(side(0, 3, 40), 3);
        assert_eq!(side(0, 1, 1), 1);
        assert_eq!(side(9000, 2, 2), 1);
    }

    #[test]
    fn a_query_changes_one_square_and_stays_in_the_ball() {
        for [h, w, c] in [[7, 7, 1], [5, 9, 3], [1, 4, 1], [1, 1, 3]] {
            let origin: Vec<f32> = (0..h * w * c).map(|i| (i % 11) as f32 / 10.0).collect();
            let draws = crate::Seed(5).host("square", 0);
            let best = origin.clone();
            let mut chase = Chase { origin: &origin, label: 0, draws, best, margin: 0.0 };
            let eps = 0.15;
            let inside = |image: &[f32]| {
                image
                    .iter()
                    .zip(&origin)
                    .all(|(y, x)| (0.0..=1.0).contains(y) && (y - x).abs() <= eps + f32::EPSILON)
            };
            chase.best = chase.stripes([w, c], eps);
            assert!(inside(&chase.best));
            // One sign a column and channel.
            for (i, (y, x)) in chase.best.iter().zip(&origin).enumerate() {
                let first = chase.best[i % (w * c)] - origin[i % (w * c)];
                assert!((y - x) * first >= 0.0, "{i}");
            }
            let mut corners = [false; 2];
            for proposals in 0..300 {
                let side = side(proposals, h, w);
                let proposal = chase.square([h, w, c], side, eps);
                assert!(inside(&proposal));
                let changed = |i: &usize| proposal[*i] != chase.best[*i];
                let places: Vec<usize> = (0..h * w * c).filter(changed).map(|i| i / c).collect();
                let span = |of: fn(usize, usize) -> usize| {
                    let places = || places.iter().map(|&place| of(place, w));
                    places().max().unwrap_or(0) + 1 - places().min().unwrap_or(0)
                };
                assert!(span(|place, w| place / w) <= side && span(|place, w| place % w) <= side);
                corners[0] |= places.contains(&0);
                corners[1] |= places.contains(&(h * w - 1));
                chase.best = proposal;
            }
            assert_eq!(corners, [true; 2], "every pixel is reached");
        }
    }
}
