//! The driver of every attack: start, projection, restarts, and the count of what fell.

use super::{AttackSettings, Network, find};
use crate::data::{Loader, Split};
use crate::rng::Philox;
use crate::{Result, Seed, Tensor, ops};

/// What attacks did to the images of a split.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// Whether each image is classified correctly without an attack.
    pub clean: Vec<bool>,
    /// By attack: whether each image is classified correctly under it.
    pub robust: Vec<Vec<bool>>,
    /// Whether each image withstands all of them.
    pub worst: Vec<bool>,
    /// `[N, H, W, C]`: a successful adversarial twin, or the image itself where there is none.
    pub adversarial: Vec<f32>,
    /// L∞ distance between each image and its twin.
    pub distance: Vec<f32>,
}

impl Outcome {
    /// Percent of `flags` that are true.
    pub fn percent(flags: &[bool]) -> f64 {
        100.0 * flags.iter().filter(|&&flag| flag).count() as f64 / flags.len().max(1) as f64
    }
}

/// The adversarial batch that training sees: one attempt a restart, per image the one of larger loss.
///
/// The start of restart r draws from `stream(r)`.
pub fn adversary(
    network: &Network,
    x: &Tensor,
    labels: &Tensor,
    settings: &AttackSettings,
    stream: impl Fn(u32) -> Philox,
) -> Result<Tensor> {
    let restarts = if randomised(settings)? { settings.restarts } else { 1 };
    let mut best =
        attempt(network, x, labels, settings, starting_point(x, settings, &stream(0), 0)?)?;
    if restarts == 1 {
        return Ok(best);
    }
    let loss = |x: &Tensor| ops::softmax_xent_each(&network.logits(x)?, labels)?.to_vec::<f32>();
    let mut highest = loss(&best)?;
    for restart in 1..restarts {
        let start = starting_point(x, settings, &stream(restart as u32), 0)?;
        let candidate = attempt(network, x, labels, settings, start)?;
        let losses = loss(&candidate)?;
        let better: Vec<bool> = losses.iter().zip(&highest).map(|(new, old)| new > old).collect();
        best = merge(&best, &candidate, &better)?;
        highest = losses.iter().zip(&highest).map(|(new, old)| new.max(*old)).collect();
    }
    Ok(best)
}

/// Runs every attack on every image of `split` that `done` does not cover yet, in batches, in order. `progress` hears
/// after every batch what is known so far; its error ends the work.
///
/// An image that is wrong without an attack counts as fallen under each and is left as it is; eps = 0 therefore
/// gives the clean accuracy. Starts do not depend on the batch size.
pub fn evaluate(
    network: &Network,
    split: &Split,
    attacks: &[AttackSettings],
    batch_size: usize,
    seed: Seed,
    done: Outcome,
    progress: &mut dyn FnMut(&Outcome) -> Result<()>,
) -> Result<Outcome> {
    attacks.iter().try_for_each(AttackSettings::check)?;
    split.check_labels(network.model.arch().classes)?;
    split.labels()?;
    let mut outcome = done;
    outcome.robust.resize(attacks.len(), Vec::new());
    let device = network.model.device();
    let [_, c, h, w] = split.shape;
    let loader = Loader::new(split, batch_size)?;
    let epoch = loader.epoch(0);
    while let Some(batch) = epoch.batch(outcome.clean.len().div_ceil(batch_size)) {
        let x = Tensor::from_vec(batch.images.clone(), &[batch.len(), h, w, c], device)?;
        let labels = Tensor::from_vec(batch.labels.clone(), &[batch.len()], device)?;
        let clean = correct(network, &x, &batch.labels)?;
        let mut twins = Twins { images: batch.images.clone(), standing: clean.clone() };
        for (attack, settings) in attacks.iter().enumerate() {
            let first = (batch.index[0] * h * w * c) as u64;
            let stream = format!("attack.{}", settings.attack);
            let start = |restart: usize| {
                let rng = seed.stream(&stream, restart as u64, attack as u32);
                starting_point(&x, settings, &rng, first)
            };
            let standing = storm(network, (&x, &labels), settings, &clean, start, &mut twins)?;
            outcome.robust[attack].extend(standing);
        }
        let pairs = twins.images.chunks(h * w * c).zip(batch.images.chunks(h * w * c));
        outcome.distance.extend(pairs.map(|(a, b)| distance(a, b)));
        outcome.worst.extend(&twins.standing);
        outcome.clean.extend(clean);
        outcome.adversarial.extend(twins.images);
        progress(&outcome)?;
    }
    Ok(outcome)
}

/// The class of the largest logit of every image; the first of equal ones, `None` where one is NaN.
pub fn predictions(logits: &Tensor) -> Result<Vec<Option<usize>>> {
    let [_, classes] = logits.dims2("predictions", "logits")?;
    let class = |row: &[f32]| {
        let mut best = 0;
        for (i, &value) in row.iter().enumerate() {
            if value.is_nan() {
                return None;
            }
            if value > row[best] {
                best = i;
            }
        }
        Some(best)
    };
    Ok(logits.to_vec::<f32>()?.chunks(classes).map(class).collect())
}

/// What the attacks have found in a batch so far.
struct Twins {
    images: Vec<f32>,
    standing: Vec<bool>,
}

/// One attack with its restarts on a batch; returns which images withstood it. The first twin that is found
/// for an image stays.
fn storm(
    network: &Network,
    (x, labels): (&Tensor, &Tensor),
    settings: &AttackSettings,
    clean: &[bool],
    start: impl Fn(usize) -> Result<Tensor>,
    twins: &mut Twins,
) -> Result<Vec<bool>> {
    let mut standing = clean.to_vec();
    let restarts = if randomised(settings)? { settings.restarts } else { 1 };
    for restart in 0..restarts {
        let left: Vec<usize> = (0..standing.len()).filter(|&i| standing[i]).collect();
        if left.is_empty() {
            break;
        }
        let (some, some_labels) = (rows::<f32>(x, &left)?, rows::<i32>(labels, &left)?);
        let start = rows::<f32>(&start(restart)?, &left)?;
        let candidates = attempt(network, &some, &some_labels, settings, start)?;
        let held = correct(network, &candidates, &some_labels.to_vec::<i32>()?)?;
        let pixels = candidates.to_vec::<f32>()?;
        let size = pixels.len() / left.len();
        for (k, &i) in left.iter().enumerate().filter(|(k, _)| !held[*k]) {
            standing[i] = false;
            if twins.standing[i] {
                twins.standing[i] = false;
                twins.images[i * size..][..size].copy_from_slice(&pixels[k * size..][..size]);
            }
        }
    }
    Ok(standing)
}

/// One attempt, projected onto the ball and [0, 1] whatever the attack returned.
fn attempt(
    network: &Network,
    x: &Tensor,
    labels: &Tensor,
    settings: &AttackSettings,
    start: Tensor,
) -> Result<Tensor> {
    let attack = find(&settings.attack)?.attack;
    let mut adversarial = attack.perturb(network, x, labels, start, settings)?;
    adversarial.expect_shape("attack", "adversarial", x.shape())?;
    ops::pgd_step(&mut adversarial, x, x, settings.eps.value(), 0.0)?;
    Ok(adversarial.detach())
}

fn randomised(settings: &AttackSettings) -> Result<bool> {
    Ok(settings.random_start && find(&settings.attack)?.attack.iterative())
}

/// x, or a random point of the ball around it.
fn starting_point(
    x: &Tensor,
    settings: &AttackSettings,
    rng: &Philox,
    first_index: u64,
) -> Result<Tensor> {
    match randomised(settings)? {
        true => ops::pgd_start(x, settings.eps.value(), rng, first_index),
        false => Ok(x.detach()),
    }
}

fn correct(network: &Network, x: &Tensor, labels: &[i32]) -> Result<Vec<bool>> {
    let classes = predictions(&network.logits(x)?)?;
    let right = |(class, &label): (Option<usize>, &i32)| {
        class.is_some_and(|class| usize::try_from(label) == Ok(class))
    };
    Ok(classes.into_iter().zip(labels).map(right).collect())
}

/// The rows `which` of a tensor whose first dimension counts images.
fn rows<T: crate::dtype::Element>(x: &Tensor, which: &[usize]) -> Result<Tensor> {
    let n = x.shape().first().copied().unwrap_or(0);
    if which.len() == n {
        return Ok(x.clone());
    }
    let values = x.to_vec::<T>()?;
    let size = values.len() / n;
    let picked: Vec<T> = which.iter().flat_map(|&i| &values[i * size..][..size]).copied().collect();
    Tensor::from_vec(picked, &[&[which.len()], &x.shape()[1..]].concat(), &x.device())
}

/// The images of `b` where `which` says so, else those of `a`.
fn merge(a: &Tensor, b: &Tensor, which: &[bool]) -> Result<Tensor> {
    let (mut pixels, other) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    let size = pixels.len() / which.len().max(1);
    for (i, _) in which.iter().enumerate().filter(|(_, take)| **take) {
        pixels[i * size..][..size].copy_from_slice(&other[i * size..][..size]);
    }
    Tensor::from_vec(pixels, a.shape(), &a.device())
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}
