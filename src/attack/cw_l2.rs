//! Carlini and Wagner's attack: the nearest wrong image in L2, untargeted.
//!
//! Pixels are `x̂(δ) = (tanh(w + δ) + 1)/2` with `w = atanh(0.999999·(2x − 1))`, so every δ is an image. For a weight c
//! Adam (β 0.9 and 0.999, ε 1e-8), from δ = 0, minimises
//!
//! ```text
//! c·max(0, f_y − max_{j≠y} f_j) + ‖x̂(δ) − x̂(0)‖²
//! ```
//!
//! and the weight is searched: from c₀ ten times larger until a search finds a wrong image, then halfway between the
//! largest that failed and the smallest that did not; of ten and more searches the last takes the smallest that did not.
//! The answer is the nearest wrong image seen.
//!
//! The plain mode: f = logits, step size 0.01, c₀ = 1e-3. Every image keeps its own time: its search ends where in a
//! tenth of the steps its smallest loss has not fallen by 0.01 %, after it has found something or the loss has fallen at
//! all, and makes room for the image's next one. An image does not depend on its batch. `faithful`: f = probabilities,
//! step size 1, c₀ = 100, as the attack was run on networks that end in a softmax; there the summed loss of the batch
//! decides every tenth of the steps, and what the deciding step found is dropped.
//!
//! State and arithmetic per value are on the host, network passes on the device: 10 ns a value and step on one core, where
//! the two passes of a network of 17,000 weights took 430.
//!
//! Source: Carlini & Wagner 2017, arXiv 1608.04644, section V; the search as in Foolbox 3.

use super::margin::{Output, fooled};
use super::per_image::rows;
use super::{AttackEntry, AttackSettings, Case, Epsilon, Norm, Search};
use crate::{Result, Tensor};
use rayon::prelude::*;

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "cw-l2",
    summary: "the nearest wrong image in L2, by Adam on distance and margin",
    source: "arXiv 1608.04644",
    norm: Norm::L2,
    search: Search::Nearest,
    steps: 1000,
    reads: &["steps", "step_size", "binary_search_steps", "faithful"],
    resolve,
    perturb,
};

fn resolve(settings: &mut AttackSettings) {
    let step_size = if settings.faithful { 1.0 } else { 0.01 };
    settings.step_size.get_or_insert(Epsilon::nearest(step_size));
    settings.binary_search_steps.get_or_insert(9);
}

/// What the searches of all images share.
struct Hyperparameters {
    faithful: bool,
    searches: usize,
    steps: usize,
    step_size: f32,
    first_weight: f64,
}

impl Hyperparameters {
    fn new(case: &Case) -> Self {
        let settings = case.settings;
        let faithful = settings.faithful;
        Self {
            faithful,
            searches: settings.binary_search_steps.unwrap_or(1),
            steps: settings.steps(),
            step_size: settings.step_size(),
            first_weight: if faithful { 100.0 } else { 1e-3 },
        }
    }

    fn output(&self) -> Output {
        if self.faithful { Output::Probabilities } else { Output::Logits }
    }
}

fn perturb(case: &Case) -> Result<Tensor> {
    let shared = Hyperparameters::new(case);
    let labels = case.true_classes()?;
    let (pixels, size) = case.pixels()?;
    let images = pixels.chunks(size.max(1)).zip(labels);
    let mut all: Vec<Descent> =
        images.map(|(x, label)| Descent::new(x, label, shared.first_weight)).collect();
    let mut open: Vec<&mut Descent> =
        if shared.steps > 0 { all.iter_mut().collect() } else { Vec::new() };
    let mut first = true;
    while !open.is_empty() {
        open.par_iter_mut().for_each(|descent| descent.place());
        let gradient = look(case, &shared, &mut open)?;
        if std::mem::take(&mut first) {
            let each = gradient.chunks(size.max(1)).enumerate();
            each.for_each(|(i, gradient)| case.note_gradient(i, gradient));
        }
        let total: f64 = open.iter().map(|descent| descent.loss).sum();
        let batch = shared.faithful.then_some(total);
        open.par_iter_mut().zip(gradient.par_chunks(size.max(1))).for_each(|(descent, g)| {
            descent.advance(&shared, g, batch);
        });
        open.retain(|descent| descent.search < shared.searches);
    }
    case.batch(all.iter().map(|descent| match &descent.best {
        Some(best) => &best[..],
        None => descent.x,
    }))
}

/// Logits and losses where the descents are; returns `∂(c·margin)/∂x̂`.
fn look(case: &Case, shared: &Hyperparameters, open: &mut [&mut Descent]) -> Result<Vec<f32>> {
    let x = case.batch(open.iter().map(|descent| &descent.now[..]))?;
    let (_, gradient) = case.network.logits_and_gradient(&x, |logits| {
        let mut seed = vec![0.0f32; logits.len()];
        let each = seed.chunks_mut((logits.len() / open.len()).max(1));
        for ((z, seed), descent) in rows(logits, open.len()).zip(each).zip(open.iter_mut()) {
            let margin = shared.output().margin(z, descent.label, seed);
            let weight = if margin > 0.0 { descent.weight as f32 } else { 0.0 };
            seed.iter_mut().for_each(|g| *g *= weight);
            descent.hear(margin, fooled(z, descent.label));
        }
        Ok(seed)
    })?;
    gradient.to_vec::<f32>()
}

/// The state of one image.
struct Descent<'a> {
    x: &'a [f32],
    label: usize,
    /// w; `x̂(0)`.
    centre: Vec<f32>,
    reconstructed: Vec<f32>,
    /// δ, its moments, `tanh(w + δ)` and `x̂(δ)`.
    delta: Vec<f32>,
    moments: Vec<[f32; 2]>,
    tanh: Vec<f32>,
    now: Vec<f32>,
    loss: f64,
    fooled: bool,
    /// Searches done, steps done in this one, and whether it has found something.
    search: usize,
    step: usize,
    found: bool,
    /// Its first and its lowest loss, and what was judged last.
    first: f64,
    lowest: f64,
    judged: f64,
    /// c, the largest that failed and the smallest that did not.
    weight: f64,
    low: f64,
    high: f64,
    best: Option<Vec<f32>>,
    best_distance: f64,
}

impl<'a> Descent<'a> {
    fn new(x: &'a [f32], label: usize, weight: f64) -> Self {
        let centre: Vec<f32> = x.iter().map(|x| (0.999_999 * (2.0 * x - 1.0)).atanh()).collect();
        let reconstructed = centre.iter().map(|w| 0.5 * w.tanh() + 0.5).collect();
        Self {
            x,
            label,
            reconstructed,
            delta: vec![0.0; x.len()],
            moments: vec![[0.0; 2]; x.len()],
            tanh: vec![0.0; x.len()],
            now: vec![0.0; x.len()],
            loss: 0.0,
            fooled: false,
            search: 0,
            step: 0,
            found: false,
            first: f64::INFINITY,
            lowest: f64::INFINITY,
            judged: f64::INFINITY,
            weight,
            low: 0.0,
            high: f64::INFINITY,
            best: None,
            best_distance: f64::INFINITY,
            centre,
        }
    }

    /// `x̂(δ)`.
    fn place(&mut self) {
        let places = self.tanh.iter_mut().zip(&mut self.now);
        for ((tanh, now), (w, delta)) in places.zip(self.centre.iter().zip(&self.delta)) {
            *tanh = (w + delta).tanh();
            *now = 0.5 * *tanh + 0.5;
        }
    }

    fn hear(&mut self, margin: f32, fooled: bool) {
        let distance = squared_distance(&self.now, &self.reconstructed);
        self.loss = self.weight * f64::from(margin.max(0.0)) + distance;
        self.fooled = fooled;
    }

    /// The books of this step, then a step along `gradient` (`∂(c·margin)/∂x̂`) or the next search. `batch`: the summed
    /// loss, where that decides.
    fn advance(&mut self, shared: &Hyperparameters, gradient: &[f32], batch: Option<f64>) {
        let stuck = self.stuck(shared, batch);
        if self.fooled && !(stuck && shared.faithful) {
            self.found = true;
            let distance = squared_distance(&self.now, self.x);
            if distance < self.best_distance {
                self.best_distance = distance;
                self.best.get_or_insert_default().clone_from(&self.now);
            }
        }
        self.step += 1;
        if stuck || self.step == shared.steps {
            self.next_search(shared);
        } else {
            self.descend(shared.step_size, gradient);
        }
    }

    /// Whether the search ends for lack of progress. One that has found nothing and whose loss has only risen goes on: it
    /// has not come to rest anywhere.
    fn stuck(&mut self, shared: &Hyperparameters, batch: Option<f64>) -> bool {
        if self.step == 0 {
            (self.first, self.lowest) = (self.loss, self.loss);
        }
        self.lowest = self.lowest.min(self.loss);
        if !self.step.is_multiple_of(shared.steps.div_ceil(10)) {
            return false;
        }
        let loss = batch.unwrap_or(self.lowest);
        let begun = batch.is_some() || self.found || self.lowest < self.first;
        let stuck = begun && (loss.is_nan() || loss > 0.9999 * self.judged);
        self.judged = loss;
        stuck
    }

    /// Adam on δ; `∂x̂/∂δ = (1 − tanh²)/2`.
    fn descend(&mut self, step_size: f32, gradient: &[f32]) {
        let [first, second] = [0.9f64, 0.999].map(|beta| 1.0 - beta.powi(self.step as i32));
        let (first, second) = (first as f32, second as f32);
        for (i, &g) in gradient.iter().enumerate() {
            let slope = 0.5 * (1.0 - self.tanh[i] * self.tanh[i]);
            let g = (g + 2.0 * (self.now[i] - self.reconstructed[i])) * slope;
            let [m, v] = &mut self.moments[i];
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.999 * *v + 0.001 * g * g;
            self.delta[i] -= step_size * (*m / first) / ((*v / second).sqrt() + 1e-8);
        }
    }

    fn next_search(&mut self, shared: &Hyperparameters) {
        *(if self.found { &mut self.high } else { &mut self.low }) = self.weight;
        let unbounded = self.high.is_infinite();
        self.weight = if unbounded { 10.0 * self.weight } else { (self.low + self.high) / 2.0 };
        self.search += 1;
        if self.search + 1 == shared.searches && shared.searches >= 10 {
            self.weight = self.high.min(1e10);
        }
        (self.step, self.found, self.judged) = (0, false, f64::INFINITY);
        self.delta.fill(0.0);
        self.moments.fill([0.0; 2]);
    }
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}
