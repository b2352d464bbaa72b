//! Auto-PGD in the L∞ or L2 ball: projected gradient ascent of a loss f with momentum, whose step size η halves by
//! itself.
//!
//! ```text
//! z       = P(x_k + η·s(∇f(x_k))),  s the signs for L∞, ∇f/‖∇f‖ for L2
//! x_{k+1} = P(x_k + a·(z − x_k) + (1 − a)·(x_k − x_{k−1})),  a = 3/4, in the first step 1
//! ```
//!
//! P projects onto the ball and clips to [0, 1]; η starts at 2·eps. At the checkpoints w_j = ⌈p_j·steps⌉, p_0 = 0,
//! p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), η halves and the search goes back to the best point so
//! far, if
//! 1. fewer than 3/4 of the steps since the last checkpoint have made f larger, or
//! 2. η did not halve at the last checkpoint and the best f is what it was then.
//!
//! `apgd-ce`: f = cross-entropy. `apgd-t`: one search for each of the nine most likely other classes, f = targeted
//! [difference of logits ratio](super::loss::dlr); on networks of two or three classes, where that is not defined,
//! minus the cross-entropy of the target. `apgd-ce-l2`, `apgd-t-l2`: the same in the L2 ball. The start is random, on
//! the ball's surface. An image that is classified wrongly is done. In training and on a network with noise it goes
//! on: there the point of largest f is wanted.
//!
//! Source: Croce & Hein 2020, arXiv 2003.01690. Their program differs from the text in three details, and here the
//! text holds: condition 1 says "at most" there, the first loss is compared with 0 instead of that of the start, and
//! condition 2 is left out at the first checkpoint. As in theirs, and not as in the text, the first step from the best point
//! counts as a rise against the point that was left.

use super::ball::Ball;
use super::per_image::{rows, wrong};
use super::{AttackEntry, Case, Norm, Search, loss};
use crate::{Result, Tensor};
use rand::rngs::ChaCha8Rng;
use rayon::prelude::*;

/// What all four read.
const READS: &[&str] = &["steps", "random_start", "restarts"];

/// The line of `apgd-ce` in the registry.
pub const CROSS_ENTROPY: AttackEntry = AttackEntry {
    name: "apgd-ce",
    summary: "PGD with momentum and its own step sizes, on the cross-entropy",
    source: "arXiv 2003.01690",
    norm: Norm::Linf,
    search: Search::Ball,
    steps: 100,
    reads: READS,
    resolve: |settings| settings.step_size = None,
    perturb: |case| untargeted(case, Ball::Linf(case.settings.eps.value())),
};

/// The line of `apgd-ce-l2` in the registry.
pub const CROSS_ENTROPY_L2: AttackEntry = AttackEntry {
    name: "apgd-ce-l2",
    summary: "apgd-ce in the L2 ball",
    source: "arXiv 2003.01690",
    norm: Norm::L2,
    search: Search::Ball,
    steps: 100,
    reads: READS,
    resolve: |settings| settings.step_size = None,
    perturb: |case| untargeted(case, Ball::L2(case.settings.eps.value())),
};

/// The line of `apgd-t` in the registry.
pub const TARGETED: AttackEntry = AttackEntry {
    name: "apgd-t",
    summary: "apgd-ce towards each of nine classes, on the targeted logits ratio",
    source: "arXiv 2003.01690",
    norm: Norm::Linf,
    search: Search::Ball,
    steps: 100,
    reads: READS,
    resolve: |settings| settings.step_size = None,
    perturb: |case| targeted(case, Ball::Linf(case.settings.eps.value())),
};

/// The line of `apgd-t-l2` in the registry.
pub const TARGETED_L2: AttackEntry = AttackEntry {
    name: "apgd-t-l2",
    summary: "apgd-t in the L2 ball",
    source: "arXiv 2003.01690",
    norm: Norm::L2,
    search: Search::Ball,
    steps: 100,
    reads: READS,
    resolve: |settings| settings.step_size = None,
    perturb: |case| targeted(case, Ball::L2(case.settings.eps.value())),
};

/// Classes that a targeted attack tries.
pub(super) const TARGETS: usize = 9;

/// f of an image (its place in the case) and its logits; writes the gradient.
type Loss<'a> = &'a dyn Fn(usize, &[f32], &mut [f32]) -> f32;

fn untargeted(case: &Case, ball: Ball) -> Result<Tensor> {
    let labels = case.true_classes()?;
    let (pixels, size) = case.pixels()?;
    let start =
        |(i, x): (usize, &[f32])| (i, start(case, ball, x, &mut case.draws.host(case.images[i])));
    let starts = pixels.chunks(size.max(1)).enumerate().map(start).collect();
    let climbs = ascend(case, ball, &pixels, &labels, starts, &|i, z, g| {
        loss::cross_entropy(z, labels[i], g)
    })?;
    case.batch(climbs.iter().map(|climb| &climb.best[..]))
}

fn targeted(case: &Case, ball: Ball) -> Result<Tensor> {
    let labels = case.true_classes()?;
    let (pixels, size) = case.pixels()?;
    let targets = case.targets(&labels, TARGETS)?;
    let classes = case.network.model.arch().classes;
    let original = |i: usize| &pixels[i * size..][..size];
    let mut draws: Vec<ChaCha8Rng> = case.images.iter().map(|&i| case.draws.host(i)).collect();
    let mut best: Vec<Option<Climb>> = labels.iter().map(|_| None).collect();
    for rank in 0..TARGETS.min(classes.saturating_sub(1)) {
        let fallen = |found: &Option<Climb>| found.as_ref().is_some_and(|found| found.fallen);
        let standing = (0..labels.len()).filter(|&i| !fallen(&best[i]));
        let starts = standing.map(|i| (i, start(case, ball, original(i), &mut draws[i]))).collect();
        let ratio = |i: usize, z: &[f32], gradient: &mut [f32]| {
            let target = targets[i][rank];
            if classes >= 4 {
                return loss::dlr(z, labels[i], target, gradient);
            }
            let entropy = loss::cross_entropy(z, target, gradient);
            gradient.iter_mut().for_each(|g| *g = -*g);
            -entropy
        };
        for climb in ascend(case, ball, &pixels, &labels, starts, &ratio)? {
            let kept = &mut best[climb.image];
            if kept.as_ref().is_none_or(|kept| climb.fallen || climb.best_loss > kept.best_loss) {
                *kept = Some(climb);
            }
        }
    }
    case.batch(best.iter().enumerate().map(|(i, climb)| match climb {
        Some(climb) => &climb.best[..],
        None => original(i),
    }))
}

/// Where a search begins: x itself where no random start is wanted.
fn start(case: &Case, ball: Ball, x: &[f32], draws: &mut ChaCha8Rng) -> Vec<f32> {
    if case.settings.random_start { ball.start(x, draws) } else { x.to_vec() }
}

/// The search for one image.
struct Climb {
    image: usize,
    now: Vec<f32>,
    before: Vec<f32>,
    gradient: Vec<f32>,
    loss: f32,
    /// The point of largest loss; where the search has fallen, the point that is classified wrongly.
    best: Vec<f32>,
    best_gradient: Vec<f32>,
    best_loss: f32,
    fallen: bool,
    step_size: f32,
    pace: Pace,
}

/// All searches from their starts to their ends; those that fall leave the batch.
fn ascend(
    case: &Case,
    ball: Ball,
    pixels: &[f32],
    labels: &[usize],
    starts: Vec<(usize, Vec<f32>)>,
    loss: Loss,
) -> Result<Vec<Climb>> {
    let steps = case.settings.steps();
    let new = |(image, start): (usize, Vec<f32>)| Climb {
        image,
        before: start.clone(),
        gradient: Vec::new(),
        loss: f32::NEG_INFINITY,
        best: start.clone(),
        best_gradient: Vec::new(),
        best_loss: f32::NEG_INFINITY,
        fallen: false,
        step_size: 2.0 * ball.radius(),
        pace: Pace::default(),
        now: start,
    };
    let mut climbs: Vec<Climb> = starts.into_iter().map(new).collect();
    let mut open: Vec<&mut Climb> = climbs.iter_mut().collect();
    let checkpoints = checkpoints(steps);
    for step in 0..=steps {
        if step > 0 {
            open.par_iter_mut().for_each(|climb| {
                let origin = &pixels[climb.image * climb.now.len()..][..climb.now.len()];
                climb.advance(origin, ball, if step == 1 { 1.0 } else { 0.75 });
            });
        }
        if open.is_empty() {
            break;
        }
        look(case, labels, &mut open, loss)?;
        if step == 0 {
            open.iter().for_each(|climb| case.note_gradient(climb.image, &climb.gradient));
        }
        open.retain(|climb| !climb.fallen);
        if step == 0 {
            open.iter_mut().for_each(|climb| climb.pace.begin(climb.best_loss));
        } else if let Some(j) = checkpoints.iter().position(|&checkpoint| checkpoint == step) {
            let since = step - if j == 0 { 0 } else { checkpoints[j - 1] };
            open.iter_mut().for_each(|climb| climb.check(since));
        }
    }
    Ok(climbs)
}

/// Loss, gradient and class of the point where each search is.
fn look(case: &Case, labels: &[usize], open: &mut [&mut Climb], loss: Loss) -> Result<()> {
    let x = case.batch(open.iter().map(|climb| &climb.now[..]))?;
    let mut losses = Vec::new();
    let (logits, gradient) = case.network.logits_and_gradient(&x, |logits| {
        let mut seed = vec![0.0f32; logits.len()];
        let each = seed.chunks_mut((logits.len() / open.len()).max(1));
        for ((climb, z), seed) in open.iter().zip(rows(logits, open.len())).zip(each) {
            losses.push(loss(climb.image, z, seed));
        }
        Ok(seed)
    })?;
    let gradient = gradient.to_vec::<f32>()?;
    let labels: Vec<usize> = open.iter().map(|climb| labels[climb.image]).collect();
    let ends = case.ends_when_wrong();
    let wrong = wrong(&logits, &labels)?;
    for (k, climb) in open.iter_mut().enumerate() {
        let size = climb.now.len();
        climb.hear(losses[k], &gradient[k * size..][..size], ends && wrong[k]);
    }
    Ok(())
}

impl Climb {
    /// What the network says of the present point.
    fn hear(&mut self, loss: f32, gradient: &[f32], fallen: bool) {
        self.pace.rises += usize::from(loss > self.loss);
        self.loss = loss;
        self.gradient = gradient.to_vec();
        self.fallen = fallen;
        if fallen || loss > self.best_loss || self.best_gradient.is_empty() {
            self.best_loss = loss;
            self.best.clone_from(&self.now);
            self.best_gradient.clone_from(&self.gradient);
        }
    }

    /// One step; `origin` is the centre of the ball, `a` the weight of the gradient.
    fn advance(&mut self, origin: &[f32], ball: Ball, a: f32) {
        let way = ball.steepest(&self.gradient);
        let step = |(now, way): (&f32, f32)| now + self.step_size * way;
        let mut z: Vec<f32> = self.now.iter().zip(way).map(step).collect();
        ball.project(origin, &mut z);
        for (z, (now, before)) in z.iter_mut().zip(self.now.iter().zip(&self.before)) {
            *z = now + (*z - now) * a + (now - before) * (1.0 - a);
        }
        ball.project(origin, &mut z);
        self.before = std::mem::replace(&mut self.now, z);
    }

    /// At a checkpoint: smaller steps from the best point, where the last ones led nowhere.
    fn check(&mut self, since: usize) {
        if self.pace.halves(since, self.best_loss) {
            self.step_size /= 2.0;
            self.now.clone_from(&self.best);
            self.gradient.clone_from(&self.best_gradient);
        }
    }
}

/// What is known at a checkpoint of the steps since the last one.
#[derive(Default)]
struct Pace {
    rises: usize,
    halved: bool,
    best: f32,
}

impl Pace {
    fn begin(&mut self, best: f32) {
        *self = Self { rises: 0, halved: false, best };
    }

    /// Whether η halves after `since` steps with `best` the largest loss so far.
    fn halves(&mut self, since: usize, best: f32) -> bool {
        let halves = 4 * self.rises < 3 * since || (!self.halved && best <= self.best);
        *self = Self { rises: 0, halved: halves, best };
        halves
    }
}

/// The steps after which η may halve.
fn checkpoints(steps: usize) -> Vec<usize> {
    // In percent; the length of a period from one to the next shrinks by 3 down to 6.
    let mut period = 22;
    let mut at = 0;
    let mut all = Vec::new();
    while at + period <= 100 {
        at += period;
        all.push((at * steps).div_ceil(100));
        period = 6.max(period - 3);
    }
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkpoints_are_those_of_the_paper() {
        // 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of the steps, rounded up.
        assert_eq!(checkpoints(100), [22, 41, 57, 70, 80, 87, 93, 99]);
        assert_eq!(checkpoints(20), [5, 9, 12, 14, 16, 18, 19, 20]);
        assert_eq!(checkpoints(5), [2, 3, 4, 5]);
        assert_eq!(checkpoints(1), [1]);
    }

    #[test]
    fn the_step_halves_after_few_rises_or_two_periods_without_a_better_point() {
        let mut pace = Pace::default();
        pace.begin(1.0);
        // (rises, steps, best so far) and whether it halves.
        for (rises, since, best, want) in [
            (17, 22, 2.0, false), // 17 ≥ 16.5
            (14, 19, 3.0, true),  // 14 < 14.25
            (12, 16, 3.0, false), // 12 is not below 12, and it has just halved
            (13, 13, 3.0, true),  // no better point since the last checkpoint
            (10, 10, 3.0, false),
            (6, 7, 4.0, false),
            (4, 6, 5.0, true), // 4 < 4.5
            (0, 6, 5.0, true),
        ] {
            pace.rises = rises;
            assert_eq!(pace.halves(since, best), want, "{rises} of {since}, best {best}");
        }
        // Without any better point than the start it halves at once.
        pace.begin(1.0);
        pace.rises = 20;
        assert!(pace.halves(22, 1.0));
    }

    #[test]
    fn steps_have_momentum_and_stay_in_the_box() {
        let origin = [0.5f32, 0.95, 0.5];
        let start = vec![0.5f32, 1.0, 0.5];
        let mut climb = Climb {
            image: 0,
            before: start.clone(),
            gradient: Vec::new(),
            loss: f32::NEG_INFINITY,
            best: start.clone(),
            best_gradient: Vec::new(),
            best_loss: f32::NEG_INFINITY,
            fallen: false,
            step_size: 0.2,
            pace: Pace::default(),
            now: start,
        };
        let close = |got: &[f32], want: &[f32]| {
            assert!(
                got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6),
                "{got:?}, not {want:?}"
            );
        };
        climb.hear(1.0, &[3.0, 1.0, f32::NAN], false);
        climb.pace.begin(1.0);
        climb.advance(&origin, Ball::Linf(0.1), 1.0);
        close(&climb.now, &[0.6, 1.0, 0.5]);
        climb.hear(2.0, &[-1.0, -1.0, 0.0], false);
        climb.advance(&origin, Ball::Linf(0.1), 0.75);
        // 0.6 + 0.75·(0.4 − 0.6) + 0.25·(0.6 − 0.5); 1 + 0.75·(0.85 − 1).
        close(&climb.now, &[0.475, 0.8875, 0.5]);
        climb.hear(1.5, &[1.0, 1.0, 1.0], false);
        // One rise in two steps: half the step, from the better point and its gradient.
        climb.check(2);
        close(&climb.now, &[0.6, 1.0, 0.5]);
        close(&climb.gradient, &[-1.0, -1.0, 0.0]);
        assert_eq!((climb.step_size, climb.best_loss), (0.1, 2.0));
        // The point before is still that of the step before.
        climb.advance(&origin, Ball::Linf(0.1), 0.75);
        // 0.6 + 0.75·(0.5 − 0.6) + 0.25·(0.6 − 0.6); 1 + 0.75·(0.9 − 1) + 0.25·(1 − 1).
        close(&climb.now, &[0.525, 0.925, 0.5]);
        climb.hear(0.0, &[0.0; 3], true);
        close(&climb.best, &[0.525, 0.925, 0.5]);
    }
}
