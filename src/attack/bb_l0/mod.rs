//! Brendel and Bethge's attack: the wrong image that differs from the true one in the fewest values (channels count
//! one by one), found by walking along the decision boundary.
//!
//! 1. An image of the split that the network takes for another class, drawn at random; where 100 draws find none, noise
//!    blended into the image.
//! 2. Line search, 30 halvings of t: the values of the start x¹ that differ from x⁰ by at most t, the others of x⁰.
//! 3. Steps: margin g = f_y − max_{j≠y} f_j and its gradient B at x; `b ← 0.2·B + 0.8·b`; x moves by the δ of
//!    [`solve`] for c = −1.1·g where g > 0, else −0.9·g, and radius r. Of the wrong images seen that with the fewest
//!    changed values is the answer.
//!
//! r starts at 1e7 (or the step size) times the number of values of an image and halves after every interval of
//! steps/30 steps: with 500 steps it never binds, and every step undoes everything and goes greedily back to the
//! boundary. An interval of 1 follows the boundary with ever shorter steps.
//!
//! The plain mode: f = logits; a value within 1e-4 of the true one is set to it before the network judges; the last point
//! counts too; a search ends when r is below 1e-6. `faithful`: f = probabilities; r grows with the number of images in
//! the batch; steps are added in f32, which leaves differences of one rounding that count as changed; values that differ by
//! the whole range never come from the start.
//!
//! Source: Brendel et al. 2019, arXiv 1907.01003; steps and schedule as in Foolbox 3.

mod solve;

use super::margin::{Output, fooled};
use super::per_image::rows;
use super::{AttackEntry, AttackSettings, Case, Epsilon, Norm, Search};
use crate::tensor::nchw_to_nhwc;
use crate::{Result, Tensor, rng};
use rand::Rng;
use rand::rngs::ChaCha8Rng;
use rayon::prelude::*;
use solve::Problem;

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "bb-l0",
    summary: "the wrong image with fewest changed values, along the boundary",
    source: "arXiv 1907.01003",
    norm: Norm::L0,
    search: Search::Nearest,
    steps: 500,
    reads: &["steps", "step_size", "faithful", "decay_interval"],
    resolve,
    perturb,
};

/// Draws of a starting image, and after them of noise.
const DRAWS: usize = 100;
/// Halvings of the line search.
const HALVINGS: usize = 30;
/// What differs by less counts as the same.
const SAME: f32 = 1e-4;
/// A trust region in which nothing can change any more.
const STANDSTILL: f64 = 1e-6;

fn resolve(settings: &mut AttackSettings) {
    // The trust region of the first step, in values of an image.
    settings.step_size.get_or_insert(Epsilon::nearest(1e7));
    settings.decay_interval.get_or_insert((settings.steps.unwrap_or(0) / 30).max(1));
}

fn perturb(case: &Case) -> Result<Tensor> {
    let settings = case.settings;
    let labels = case.true_classes()?;
    let (pixels, size) = case.pixels()?;
    let mut walks: Vec<Walk> = pixels
        .chunks(size.max(1))
        .zip(labels)
        .zip(case.images)
        .map(|((origin, label), &image)| Walk::new(origin, label, case.draws.host(image)))
        .collect();
    find_starts(case, &mut walks)?;
    let mut open: Vec<&mut Walk> = walks.iter_mut().filter(|walk| walk.found).collect();
    if !open.is_empty() {
        line_search(case, &mut open)?;
        let batch = if settings.faithful { open.len() } else { 1 };
        let mut radius = settings.step_size.unwrap_or_default().exact() * (size * batch) as f64;
        let interval = settings.decay_interval.unwrap_or(1);
        for step in 1..=settings.steps() {
            if (step + 1).is_multiple_of(interval) {
                radius *= 0.5;
            }
            if radius < STANDSTILL && !settings.faithful {
                break;
            }
            look(case, &mut open)?;
            open.par_iter_mut().for_each(|walk| walk.advance(radius, settings.faithful));
        }
        if !settings.faithful {
            judge(case, &mut open)?;
        }
    }
    case.batch(walks.iter().map(|walk| if walk.found { &walk.best[..] } else { walk.origin }))
}

/// The state of one image.
struct Walk<'a> {
    /// x⁰.
    origin: &'a [f32],
    label: usize,
    draws: ChaCha8Rng,
    /// Whether there is a wrong image to start from.
    found: bool,
    /// x.
    now: Vec<f32>,
    best: Vec<f32>,
    /// b; empty before the first step.
    normal: Vec<f32>,
    margin: f32,
}

impl<'a> Walk<'a> {
    fn new(origin: &'a [f32], label: usize, draws: ChaCha8Rng) -> Self {
        let (now, best, normal) = (origin.to_vec(), Vec::new(), Vec::new());
        Self { origin, label, draws, found: false, now, best, normal, margin: 0.0 }
    }

    fn changed(&self, x: &[f32]) -> usize {
        x.iter().zip(self.origin).filter(|(x, origin)| (*x - *origin).abs() > SAME).count()
    }

    /// Keeps the present point where it is wrong and nearer.
    fn keep(&mut self, wrong: bool) {
        if wrong && self.changed(&self.now) < self.changed(&self.best) {
            self.best.clone_from(&self.now);
        }
    }

    /// The gradient of the margin at the present point.
    fn hear(&mut self, gradient: &[f32]) {
        if self.normal.is_empty() {
            self.normal = gradient.to_vec();
        } else {
            self.normal.iter_mut().zip(gradient).for_each(|(b, g)| *b = 0.2 * g + 0.8 * *b);
        }
    }

    /// One step inside the trust region.
    fn advance(&mut self, radius: f64, faithful: bool) {
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let (origin, x, normal) = (wide(self.origin), wide(&self.now), wide(&self.normal));
        let c = f64::from(self.margin) * if self.margin > 0.0 { -1.1 } else { -0.9 };
        let problem = Problem { origin: &origin, x: &x, normal: &normal, c, radius };
        for (i, by) in problem.solve().into_iter().enumerate() {
            self.now[i] = match ((x[i] + by).clamp(0.0, 1.0) as f32, self.origin[i]) {
                _ if faithful => self.now[i] + by as f32,
                (moved, origin) if (moved - origin).abs() <= SAME => origin,
                (moved, _) => moved,
            };
        }
    }
}

/// Whether the network takes each image for another class than its walk's.
fn wrong<'a>(case: &Case, images: impl Iterator<Item = (&'a [f32], usize)>) -> Result<Vec<bool>> {
    let (images, labels): (Vec<&[f32]>, Vec<usize>) = images.unzip();
    let z = case.network.logits(&case.batch(images.into_iter())?)?.to_vec::<f32>()?;
    Ok(rows(&z, labels.len()).zip(&labels).map(|(z, &label)| fooled(z, label)).collect())
}

/// A wrong image for each walk, its first `best`. An image that is wrong itself starts from itself.
fn find_starts(case: &Case, walks: &mut [Walk]) -> Result<()> {
    for round in 0..2 * DRAWS {
        let mut open: Vec<&mut Walk> = walks.iter_mut().filter(|walk| !walk.found).collect();
        if open.is_empty() {
            break;
        }
        for walk in &mut open {
            walk.best = match case.split.filter(|_| round < DRAWS) {
                _ if round == 0 => walk.origin.to_vec(),
                Some(split) => {
                    let product = u128::from(walk.draws.next_u64()) * split.len() as u128;
                    let image = (product >> 64) as usize;
                    let [_, c, h, w] = split.shape;
                    nchw_to_nhwc(&split.images_nchw(image..image + 1), [1, c, h, w])
                }
                // Noise of ten strengths in turn.
                None => {
                    let share = (1 + round % 10) as f32 / 10.0;
                    let mut noise = || rng::unit(walk.draws.next_u32());
                    walk.origin.iter().map(|x| x + share * (noise() - x)).collect()
                }
            };
        }
        let wrong = wrong(case, open.iter().map(|walk| (&walk.best[..], walk.label)))?;
        open.iter_mut().zip(wrong).for_each(|(walk, wrong)| walk.found = wrong);
    }
    Ok(())
}

/// Puts every walk at the wrong point between its image and its start that differs by least.
fn line_search(case: &Case, open: &mut [&mut Walk]) -> Result<()> {
    let faithful = case.settings.faithful;
    let mut spans = vec![(0.0f32, 1.0f32); open.len()];
    for halving in 0..=HALVINGS {
        for (walk, (low, high)) in open.iter_mut().zip(&spans) {
            // The last round places.
            let t = if halving == HALVINGS { *high } else { 0.5 * (low + high) };
            for (now, (&start, &x)) in walk.now.iter_mut().zip(walk.best.iter().zip(walk.origin)) {
                let far = (start - x).abs();
                *now = if far < t || (far == t && !faithful) { start } else { x };
            }
        }
        if halving < HALVINGS {
            let wrong = wrong(case, open.iter().map(|walk| (&walk.now[..], walk.label)))?;
            for ((low, high), wrong) in spans.iter_mut().zip(wrong) {
                let middle = 0.5 * (*low + *high);
                *(if wrong { high } else { low }) = middle;
            }
        }
    }
    Ok(())
}

/// Margins and their gradients where the walks are.
fn look(case: &Case, open: &mut [&mut Walk]) -> Result<()> {
    let faithful = case.settings.faithful;
    let output = if faithful { Output::Probabilities } else { Output::Logits };
    let x = case.batch(open.iter().map(|walk| &walk.now[..]))?;
    let (_, gradient) = case.network.logits_and_gradient(&x, |logits| {
        let mut seed = vec![0.0f32; logits.len()];
        let each = seed.chunks_mut((logits.len() / open.len()).max(1));
        for ((z, seed), walk) in rows(logits, open.len()).zip(each).zip(open.iter_mut()) {
            walk.margin = output.margin(z, walk.label, seed);
            walk.keep(fooled(z, walk.label));
        }
        Ok(seed)
    })?;
    let gradient = gradient.to_vec::<f32>()?;
    let size = (gradient.len() / open.len()).max(1);
    open.iter_mut().zip(gradient.chunks(size)).for_each(|(walk, gradient)| walk.hear(gradient));
    Ok(())
}

/// Keeps the last points where they are better.
fn judge(case: &Case, open: &mut [&mut Walk]) -> Result<()> {
    let wrong = wrong(case, open.iter().map(|walk| (&walk.now[..], walk.label)))?;
    open.iter_mut().zip(wrong).for_each(|(walk, wrong)| walk.keep(wrong));
    Ok(())
}
