//! Zeroth-order optimisation: an attack that sees only what the network puts out, never a gradient. Untargeted.
//!
//! Pixels are `x̂(δ) = (tanh(w + δ) + 1)/2` with `w = atanh(1.999999·(x − ½))`; minimised over δ, from 0, is
//!
//! ```text
//! ℓ(δ) = ‖x̂(δ) − x‖² + c·max(0, log p_y − log max_{j≠y} p_j),  p = softmax(logits)
//! ```
//!
//! A step draws 128 coordinates (all, where there are fewer), passes 257 images {δ, δ ± h·e_i}, h = 1e-4, in one
//! batch, and moves each coordinate by Adam (β 0.9 and 0.999, ε 1e-8, step size 0.01) along
//! `(ℓ(δ + h·e_i) − ℓ(δ − h·e_i))/2h`; every coordinate has its own moments and step count. The answer is the nearest
//! wrong x̂(δ), at most 20 from x in L2, else x itself. A search that in 100 steps has not gained 0.01 % ends.
//!
//! One search takes c = ½; several begin with c = 0.01 and change it as bisection does: ten times larger until one finds
//! something, then halfway between the largest that failed and the smallest that did not.
//!
//! h moves a pixel by 5e-5 at most, which the rounding of tensor-core modes would swallow: f32 only.
//!
//! Source: Chen et al. 2017, arXiv 1708.03999, and the program published with it, which returns an image of its own
//! space on failure.

use super::margin::{fooled, likeliest_other, log_softmax};
use super::per_image::rows;
use super::{AttackEntry, AttackSettings, Case, Epsilon, Norm, Search};
use crate::{Error, Mode, Result, Tensor};
use rand::Rng;
use rand::rngs::ChaCha8Rng;

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "zoo",
    summary: "black box: Adam on differences of outputs, coordinate by coordinate",
    source: "arXiv 1708.03999",
    norm: Norm::L2,
    search: Search::Nearest,
    steps: 1000,
    reads: &["steps", "step_size", "binary_search_steps"],
    resolve,
    perturb,
};

/// Coordinates of one step.
const COORDINATES: usize = 128;
/// h.
const DIFFERENCE: f32 = 1e-4;
/// Steps between two looks at the progress.
const PATIENCE: usize = 100;
/// What is farther from the image, in L2, is no success.
const FARTHEST: f64 = 20.0;

/// Logits of images that follow each other.
type Network<'a> = dyn FnMut(&[f32]) -> Result<Vec<f32>> + 'a;

fn resolve(settings: &mut AttackSettings) {
    settings.step_size.get_or_insert(Epsilon::nearest(0.01));
    settings.binary_search_steps.get_or_insert(1);
}

fn perturb(case: &Case) -> Result<Tensor> {
    let mode = case.network.mode;
    if mode != Mode::F32 {
        return Err(Error::param("mode", mode, "f32 for zoo: it differentiates by differences"));
    }
    let settings = case.settings;
    let labels = case.true_classes()?;
    let (pixels, size) = case.pixels()?;
    let mut network = |images: &[f32]| {
        case.network.logits(&case.batch(std::iter::once(images))?)?.to_vec::<f32>()
    };
    let mut answers = Vec::with_capacity(labels.len());
    for ((x, &label), &image) in pixels.chunks(size.max(1)).zip(&labels).zip(case.images) {
        let mut zoo = Zoo {
            x,
            label,
            searches: settings.binary_search_steps.unwrap_or(1),
            steps: settings.steps(),
            step_size: settings.step_size(),
            network: &mut network,
            draws: case.draws.host(image),
            best: None,
        };
        zoo.run()?;
        answers.push(zoo.best.filter(|(far, _)| far.sqrt() <= FARTHEST));
    }
    let found = answers.iter().zip(pixels.chunks(size.max(1)));
    case.batch(found.map(|(found, x)| found.as_ref().map_or(x, |(_, image)| &image[..])))
}

/// The attack on one image.
struct Zoo<'a> {
    x: &'a [f32],
    label: usize,
    searches: usize,
    steps: usize,
    step_size: f32,
    network: &'a mut Network<'a>,
    draws: ChaCha8Rng,
    /// The nearest wrong image and its squared distance.
    best: Option<(f64, Vec<f32>)>,
}

/// A coordinate's moments and steps.
#[derive(Clone, Copy, Default)]
struct Moments {
    first: f32,
    second: f32,
    steps: i32,
}

impl Zoo<'_> {
    fn run(&mut self) -> Result<()> {
        let (mut low, mut high) = (0.0f64, 1e10f64);
        let mut weight = if self.searches == 1 { 0.5 } else { 0.01 };
        for _ in 0..self.searches {
            if self.search(weight)? {
                high = high.min(weight);
            } else {
                low = low.max(weight);
            }
            weight = if high < 1e9 { (low + high) / 2.0 } else { 10.0 * weight };
        }
        Ok(())
    }

    /// One search with the weight c; whether it found a wrong image.
    fn search(&mut self, weight: f64) -> Result<bool> {
        let w: Vec<f32> = self.x.iter().map(|x| (1.999_999 * (x - 0.5)).atanh()).collect();
        let mut delta = vec![0.0f32; w.len()];
        let mut moments = vec![Moments::default(); w.len()];
        let mut order: Vec<usize> = (0..w.len()).collect();
        let (mut found, mut judged) = (false, f64::INFINITY);
        for step in 0..self.steps {
            let chosen = draw(&mut order, &mut self.draws);
            let seen = self.look(&w, &delta, chosen, weight)?;
            let far = squared_distance(&seen.now, self.x);
            if seen.fooled {
                found = true;
                if self.best.as_ref().is_none_or(|(best, _)| far < *best) {
                    self.best = Some((far, seen.now));
                }
            }
            if step.is_multiple_of(PATIENCE) {
                if seen.loss.is_nan() || seen.loss > 0.9999 * judged {
                    break;
                }
                judged = seen.loss;
            }
            for (&i, g) in chosen.iter().zip(seen.gradient) {
                delta[i] -= moments[i].step(g, self.step_size);
            }
        }
        Ok(found)
    }

    /// One batch: {δ, δ ± h·e_i} for the chosen i.
    fn look(&mut self, w: &[f32], delta: &[f32], chosen: &[usize], weight: f64) -> Result<Seen> {
        let now: Vec<f32> = w.iter().zip(delta).map(|(w, delta)| pixel(w + delta)).collect();
        let mut images = now.repeat(1 + 2 * chosen.len());
        let pairs = images[now.len()..].chunks_mut(2 * now.len().max(1));
        for (&i, pair) in chosen.iter().zip(pairs) {
            pair[i] = pixel(w[i] + delta[i] + DIFFERENCE);
            pair[now.len() + i] = pixel(w[i] + delta[i] - DIFFERENCE);
        }
        let logits = (self.network)(&images)?;
        let each = rows(&logits, 1 + 2 * chosen.len());
        let losses: Vec<f64> = images
            .chunks(now.len().max(1))
            .zip(each)
            .map(|(image, z)| squared_distance(image, self.x) + weight * hinge(z, self.label))
            .collect();
        let slope = |pair: &[f64]| ((pair[0] - pair[1]) / f64::from(2.0 * DIFFERENCE)) as f32;
        Ok(Seen {
            loss: losses[0],
            gradient: losses[1..].chunks(2).map(slope).collect(),
            now,
            fooled: rows(&logits, losses.len()).next().is_some_and(|z| fooled(z, self.label)),
        })
    }
}

/// What one batch of outputs says.
struct Seen {
    /// x̂(δ).
    now: Vec<f32>,
    /// ℓ(δ).
    loss: f64,
    /// ∂ℓ/∂δ of the chosen coordinates.
    gradient: Vec<f32>,
    fooled: bool,
}

impl Moments {
    /// What Adam subtracts.
    fn step(&mut self, g: f32, step_size: f32) -> f32 {
        self.steps += 1;
        self.first = 0.9 * self.first + 0.1 * g;
        self.second = 0.999 * self.second + 0.001 * g * g;
        let [first, second] = [0.9f64, 0.999].map(|beta| 1.0 - beta.powi(self.steps));
        let correction = (second.sqrt() / first) as f32;
        step_size * correction * self.first / (self.second.sqrt() + 1e-8)
    }
}

/// x̂ of one value of w + δ.
fn pixel(w: f32) -> f32 {
    0.5 * w.tanh() + 0.5
}

/// `max(0, log p_y − log max_{j≠y} p_j)`, 0 where there is no other class.
fn hinge(z: &[f32], label: usize) -> f64 {
    let Some(other) = likeliest_other(z, label) else { return 0.0 };
    // The published floor of 1e-30 under a probability.
    let log = log_softmax(z);
    let floored = |class: usize| (log[class].exp() + 1e-30).ln();
    (floored(label) - floored(other)).max(0.0)
}

/// Distinct coordinates, uniformly: the front of a shuffle.
fn draw<'a>(order: &'a mut [usize], draws: &mut ChaCha8Rng) -> &'a [usize] {
    let count = order.len().min(COORDINATES);
    for i in 0..count {
        let left = (order.len() - i) as u128;
        let pick = (u128::from(draws.next_u64()) * left) >> 64;
        order.swap(i, i + pick as usize);
    }
    &order[..count]
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    /// Logits `W·(x − ½)` of 40 values and 4 classes. About ½, because the rounding of large logits to f32 alone would be a
    /// thousandth of the gradient.
    fn linear(images: &[f32]) -> Vec<f32> {
        let philox = Seed(3).stream("linear", 0, 0);
        let logit = |image: &[f32], class: usize| -> f32 {
            let each = image.iter().enumerate();
            let sum =
                each.map(|(i, &x)| f64::from(philox.normal(class * 40 + i)) * f64::from(x - 0.5));
            sum.sum::<f64>() as f32
        };
        images.chunks(40).flat_map(|image| (0..4).map(move |class| logit(image, class))).collect()
    }

    #[test]
    fn the_estimated_gradient_is_the_analytic_one_and_a_step_asks_for_257_images_at_most() {
        let philox = Seed(4).stream("image", 0, 0);
        let x: Vec<f32> = (0..40).map(|i| 0.05 + 0.9 * philox.uniform(i)).collect();
        let w: Vec<f32> = x.iter().map(|x| (1.999_999 * (x - 0.5)).atanh()).collect();
        let delta: Vec<f32> = (0..40).map(|i| 0.01 * (i as f32 - 20.0)).collect();
        let now: Vec<f32> = w.iter().zip(&delta).map(|(w, d)| pixel(w + d)).collect();
        let z = linear(&now);
        // The likeliest class: the margin has a gradient there.
        let label = (0..4).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap();
        let mut asked = 0;
        let mut network = |images: &[f32]| {
            asked += images.len() / 40;
            Ok(linear(images))
        };
        let draws = Seed(1).host("zoo", 0);
        let (searches, steps, step_size) = (1, 3, 0.01);
        let mut zoo = Zoo {
            x: &x,
            label,
            searches,
            steps,
            step_size,
            network: &mut network,
            draws,
            best: None,
        };
        let chosen: Vec<usize> = (0..40).rev().collect();
        let seen = zoo.look(&w, &delta, &chosen, 2.0).unwrap();
        zoo.run().unwrap();
        assert_eq!(asked, 4 * 81);
        // log p_y − log p_j is the difference of logits.
        let other = likeliest_other(&z, label).unwrap();
        let row = |class: usize, i: usize| {
            f64::from(Seed(3).stream("linear", 0, 0).normal(class * 40 + i))
        };
        let (mut error, mut size) = (0.0, 0.0);
        for (&i, got) in chosen.iter().zip(&seen.gradient) {
            let t = f64::from(w[i] + delta[i]).tanh();
            let slope = 0.5 * (1.0 - t * t);
            let pull = 2.0 * f64::from(now[i] - x[i]);
            let want = slope * (pull + 2.0 * (row(label, i) - row(other, i)));
            error += (f64::from(*got) - want).powi(2);
            size += want * want;
        }
        assert!((error / size).sqrt() < 1e-3, "{}", (error / size).sqrt());
    }

    #[test]
    fn draws_are_distinct_and_uniform() {
        let mut draws = Seed(2).host("zoo", 0);
        let mut order: Vec<usize> = (0..200).collect();
        let mut counts = vec![0usize; 200];
        for _ in 0..1000 {
            let mut chosen = draw(&mut order, &mut draws).to_vec();
            chosen.iter().for_each(|&i| counts[i] += 1);
            chosen.sort_unstable();
            chosen.dedup();
            assert_eq!(chosen.len(), COORDINATES);
        }
        // 1000 draws with 0.64 each: standard deviation 15.
        assert!(counts.iter().all(|count| count.abs_diff(640) < 76), "{counts:?}");
        assert_eq!(draw(&mut [7, 8, 9], &mut draws).len(), 3);
    }

    #[test]
    fn adam_moves_by_the_step_size_at_first_and_counts_for_itself() {
        let mut moments = Moments::default();
        for g in [3.0, -0.2, 0.05] {
            let step = Moments::default().step(g, 0.01);
            assert!((step - 0.01 * g.signum()).abs() < 1e-6, "{step}");
        }
        // m = 0.9·0.1 + 0.1·2 = 0.29, v = 0.999·0.001 + 0.004; bias √(1 − 0.999²)/(1 − 0.9²).
        moments.step(1.0, 1.0);
        let want = (1.0 - 0.999f64.powi(2)).sqrt() / (1.0 - 0.81) * 0.29 / 0.004_999f64.sqrt();
        assert!((f64::from(moments.step(2.0, 1.0)) - want).abs() < 1e-5);
    }
}
