//! Fast adaptive boundary attack: a nearest image that is classified wrongly, in L∞ (`fab-t`) or L2 (`fab-t-l2`).
//! Towards each of the nine most likely other classes t, from x_0 = x, with g(x) = z_t(x) − z_label(x), its gradient
//! w and the plane g(x_k) + ⟨w, y − x_k⟩ = 0:
//!
//! ```text
//! δ, δ₀    = the shortest ways from x_k and from x to the plane, inside [0, 1]
//! a        = min(‖δ‖ / (‖δ‖ + ‖δ₀‖), 0.1)
//! x_{k+1}  = clip((1 − a)(x_k + 1.05·δ) + a (x + 1.05·δ₀), 0, 1)
//! ```
//!
//! Where x_{k+1} is classified wrongly, as whatever class, it is kept if it is the nearest so far, and the search
//! goes on from x + 0.9·(x_{k+1} − x). Nothing is random. AutoAttack counts the result at eps and stops once an image
//! has one; here all classes are searched, so that the distance is the least of all of them.
//!
//! Source: Croce & Hein 2020, arXiv 1907.02044; targeted as in arXiv 2003.01690; without the final search of the
//! former, as the authors' program.

use super::apgd::TARGETS;
use super::hyperplane::{shortest_l2, shortest_linf};
use super::per_image::wrong;
use super::{AttackEntry, Case, Norm, Search};
use crate::{Result, Tensor};
use rayon::prelude::*;

/// The line of `fab-t` in the registry.
pub const LINF: AttackEntry = AttackEntry {
    name: "fab-t",
    summary: "a near wrong image by projections onto linearised boundaries, towards nine classes",
    source: "arXiv 1907.02044",
    norm: Norm::Linf,
    search: Search::Nearest,
    steps: 100,
    reads: &["steps"],
    resolve: |settings| settings.step_size = None,
    perturb: |case| search(case, &Metric { norm: Norm::Linf, shortest: shortest_linf }),
};

/// The line of `fab-t-l2` in the registry.
pub const L2: AttackEntry = AttackEntry {
    name: "fab-t-l2",
    summary: "fab-t in L2",
    norm: Norm::L2,
    perturb: |case| search(case, &Metric { norm: Norm::L2, shortest: shortest_l2 }),
    ..LINF
};

/// What distances are measured in.
struct Metric {
    norm: Norm,
    /// The shortest way to a plane, see [`super::hyperplane`].
    shortest: fn(&[f32], &[f32], f64) -> Vec<f64>,
}

impl Metric {
    /// At least 1e-8, as the authors': on the plane itself both ways may be 0.
    fn length(&self, way: &[f64]) -> f64 {
        let length = match self.norm {
            Norm::Linf => way.iter().fold(0.0f64, |length, way| length.max(way.abs())),
            _ => way.iter().map(|way| way * way).sum::<f64>().sqrt(),
        };
        length.max(1e-8)
    }
}

/// The largest share of the way that starts at x itself.
const BIAS: f64 = 0.1;
/// How far behind the plane a step ends.
const OVERSHOOT: f64 = 1.05;
/// What is left of the way from x after a step back.
const BACK: f32 = 0.9;

/// The search for one image.
struct Walk<'a> {
    origin: &'a [f32],
    now: Vec<f32>,
    nearest: Vec<f32>,
    distance: f32,
}

fn search(case: &Case, metric: &Metric) -> Result<Tensor> {
    let labels = case.true_classes()?;
    let (pixels, size) = case.pixels()?;
    let targets = case.targets(&labels, TARGETS)?;
    let walk = |origin| Walk {
        origin,
        now: Vec::new(),
        nearest: <[f32]>::to_vec(origin),
        distance: f32::INFINITY,
    };
    let mut walks: Vec<Walk> = pixels.chunks(size.max(1)).map(walk).collect();
    for rank in 0..targets.first().map_or(0, Vec::len) {
        walks.iter_mut().for_each(|walk| walk.now = walk.origin.to_vec());
        let towards: Vec<usize> = targets.iter().map(|targets| targets[rank]).collect();
        for _ in 0..case.settings.steps() {
            step(case, metric, &mut walks, &labels, &towards)?;
        }
    }
    case.batch(walks.iter().map(|walk| &walk.nearest[..]))
}

fn step(
    case: &Case,
    metric: &Metric,
    walks: &mut [Walk],
    labels: &[usize],
    towards: &[usize],
) -> Result<()> {
    let mut gaps = Vec::new();
    let x = case.batch(walks.iter().map(|walk| &walk.now[..]))?;
    let (_, gradient) = case.network.logits_and_gradient(&x, |logits| {
        let classes = logits.len() / labels.len();
        let mut seed = vec![0.0f32; logits.len()];
        for (i, (&label, &target)) in labels.iter().zip(towards).enumerate() {
            let [own, other] = [label, target].map(|class| i * classes + class);
            gaps.push(f64::from(logits[other]) - f64::from(logits[own]));
            (seed[own], seed[other]) = (-1.0, 1.0);
        }
        Ok(seed)
    })?;
    let gradient = gradient.to_vec::<f32>()?;
    let size = gradient.len() / walks.len();
    gradient.chunks(size.max(1)).enumerate().for_each(|(i, w)| case.note_gradient(i, w));
    let planes = gradient.par_chunks(size).zip(&gaps);
    walks.par_iter_mut().zip(planes).for_each(|(walk, (w, &gap))| walk.advance(metric, w, gap));
    let x = case.batch(walks.iter().map(|walk| &walk.now[..]))?;
    let logits = case.network.logits(&x)?.to_vec::<f32>()?;
    let wrong = wrong(&logits, labels)?;
    walks
        .iter_mut()
        .zip(wrong)
        .filter(|(_, wrong)| *wrong)
        .for_each(|(walk, _)| walk.step_back(metric));
    Ok(())
}

impl Walk<'_> {
    /// One step; `w` is the gradient of the logits' difference and `gap` their difference at the present point.
    fn advance(&mut self, metric: &Metric, w: &[f32], gap: f64) {
        if !(gap.is_finite() && w.iter().all(|w| w.is_finite())) {
            return;
        }
        let back = w.iter().zip(self.origin.iter().zip(&self.now));
        let back = back.map(|(&w, (&x, &now))| f64::from(w) * (f64::from(x) - f64::from(now)));
        let here = (metric.shortest)(&self.now, w, gap);
        let there = (metric.shortest)(self.origin, w, gap + back.sum::<f64>());
        let [length, other] = [&here, &there].map(|way| metric.length(way));
        let share = (length / (length + other)).min(BIAS);
        let ways = here.iter().zip(self.origin.iter().zip(&there));
        for (now, (here, (&x, there))) in self.now.iter_mut().zip(ways) {
            let near = f64::from(*now) + OVERSHOOT * here;
            let far = f64::from(x) + OVERSHOOT * there;
            *now = ((1.0 - share) * near + share * far).clamp(0.0, 1.0) as f32;
        }
    }

    /// The present point is classified wrongly.
    fn step_back(&mut self, metric: &Metric) {
        let distance = metric.norm.distance(&self.now, self.origin);
        if distance < self.distance {
            self.distance = distance;
            self.nearest.clone_from(&self.now);
        }
        let back = |(now, x): (&f32, &f32)| x + BACK * (now - x);
        self.now = self.now.iter().zip(self.origin).map(back).collect();
    }
}
