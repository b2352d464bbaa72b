//! The driver of every attack: start, projection, restarts, and the count of what fell.

use super::{AttackSettings, Case, Draws, Network, Norm, Search, find};
use crate::data::{Loader, Split};
use crate::{Error, Result, Seed, Tensor, ops};

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
    /// By attack: how far each image is from the twin that this attack found, in the attack's norm; 0 where the image
    /// was wrong already, infinite where none was found.
    pub distances: Vec<Vec<f32>>,
}

impl Outcome {
    /// Percent of `flags` that are true.
    pub fn percent(flags: &[bool]) -> f64 {
        100.0 * flags.iter().filter(|&&flag| flag).count() as f64 / flags.len().max(1) as f64
    }
}

/// The adversarial batch that training sees: one attempt a restart, per image the one of larger loss.
///
/// Errors: [`crate::ErrorKind::Param`] for an attack that does not stay inside a ball.
pub fn adversary(
    network: &Network,
    x: &Tensor,
    labels: &Tensor,
    settings: &AttackSettings,
    draws: Draws,
) -> Result<Tensor> {
    let entry = find(&settings.attack)?;
    if entry.search == Search::Nearest {
        return Err(Error::param("adversary.attack", entry.name, "an attack inside a ball"));
    }
    let images: Vec<usize> = (0..x.shape()[0]).collect();
    let try_once = |restart: usize| {
        let draws = Draws { restart: restart as u32, ..draws };
        let start = starting_point(x, settings, draws, 0)?;
        let images = &images;
        attempt(&Case { network, x, labels, images, start, settings, draws, split: None })
    };
    let mut best = try_once(0)?;
    if restarts(settings)? == 1 {
        return Ok(best);
    }
    let loss = |x: &Tensor| ops::softmax_xent_each(&network.logits(x)?, labels)?.to_vec::<f32>();
    let mut highest = loss(&best)?;
    for restart in 1..settings.restarts {
        let candidate = try_once(restart)?;
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
    outcome.distances.resize(attacks.len(), Vec::new());
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
            let stream = format!("attack.{}", settings.attack);
            let same = |earlier: &&AttackSettings| earlier.attack == settings.attack;
            let turn = attacks[..attack].iter().filter(same).count() as u64;
            let draws = Draws { seed, stream: &stream, restart: 0, turn };
            let (labels, images) = (&labels, &batch.index[..]);
            let start = x.clone();
            let split = Some(split);
            let case = Case { network, x: &x, labels, images, start, settings, draws, split };
            let found = storm(&case, &clean, &mut twins)?;
            let radius = radius(settings)?;
            outcome.robust[attack].extend(found.iter().map(|&found| found > radius));
            outcome.distances[attack].extend(found);
        }
        let pairs = twins.images.chunks(h * w * c).zip(batch.images.chunks(h * w * c));
        outcome.distance.extend(pairs.map(|(a, b)| distance(Norm::Linf, a, b)));
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

/// One attack with its restarts on a whole batch; returns how far each image is from the twin it found, see
/// [`Outcome::distances`]. The first twin that is found for an image stays.
fn storm(whole: &Case, clean: &[bool], twins: &mut Twins) -> Result<Vec<f32>> {
    let entry = find(&whole.settings.attack)?;
    let originals = whole.x.to_vec::<f32>()?;
    let size = originals.len() / clean.len().max(1);
    let mut found: Vec<f32> = clean.iter().map(|&c| if c { f32::INFINITY } else { 0.0 }).collect();
    for restart in 0..restarts(whole.settings)? {
        let left: Vec<usize> = (0..found.len()).filter(|&i| found[i].is_infinite()).collect();
        if left.is_empty() {
            break;
        }
        let draws = Draws { restart: restart as u32, ..whole.draws };
        let first = (whole.images[0] * size) as u64;
        let start = starting_point(whole.x, whole.settings, draws, first)?;
        let candidates = attempt(&Case {
            x: &rows::<f32>(whole.x, &left)?,
            labels: &rows::<i32>(whole.labels, &left)?,
            images: &left.iter().map(|&i| whole.images[i]).collect::<Vec<_>>(),
            start: rows::<f32>(&start, &left)?,
            draws,
            ..*whole
        })?;
        let labels = rows::<i32>(whole.labels, &left)?.to_vec::<i32>()?;
        let held = correct(whole.network, &candidates, &labels)?;
        let pixels = candidates.to_vec::<f32>()?;
        for (k, &i) in left.iter().enumerate().filter(|(k, _)| !held[*k]) {
            let (twin, original) = (&pixels[k * size..][..size], &originals[i * size..][..size]);
            found[i] = distance(entry.norm, twin, original);
            if twins.standing[i] && found[i] <= radius(whole.settings)? {
                twins.standing[i] = false;
                twins.images[i * size..][..size].copy_from_slice(twin);
            }
        }
    }
    Ok(found)
}

/// One attempt, projected onto the ball and [0, 1] whatever the attack returned.
fn attempt(case: &Case) -> Result<Tensor> {
    let entry = find(&case.settings.attack)?;
    let mut adversarial = (entry.perturb)(case)?;
    adversarial.expect_shape("attack", "adversarial", case.x.shape())?;
    let radius = if entry.search == Search::Nearest { 1.0 } else { case.settings.eps.value() };
    ops::pgd_step(&mut adversarial, case.x, case.x, radius, 0.0)?;
    Ok(adversarial.detach())
}

/// From what distance on an image counts as robust. What was projected onto the ball is inside, whatever the rounding.
fn radius(settings: &AttackSettings) -> Result<f32> {
    Ok(match find(&settings.attack)?.search {
        Search::Nearest => settings.eps.value(),
        Search::OneStep | Search::Ball => f32::MAX,
    })
}

fn randomised(settings: &AttackSettings) -> Result<bool> {
    Ok(settings.random_start && find(&settings.attack)?.search == Search::Ball)
}

fn restarts(settings: &AttackSettings) -> Result<usize> {
    Ok(if randomised(settings)? { settings.restarts } else { 1 })
}

/// x, or a random point of the ball around it. `first_index` is the place of the first pixel in the split.
fn starting_point(
    x: &Tensor,
    settings: &AttackSettings,
    draws: Draws,
    first_index: u64,
) -> Result<Tensor> {
    match randomised(settings)? {
        true => ops::pgd_start(x, settings.eps.value(), &draws.philox(), first_index),
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

/// Between two images.
fn distance(norm: Norm, a: &[f32], b: &[f32]) -> f32 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    match norm {
        Norm::Linf => differences.fold(0.0, f32::max),
        Norm::L2 => differences.map(|d| f64::from(d).powi(2)).sum::<f64>().sqrt() as f32,
        Norm::L0 => differences.filter(|&d| d > 0.0).count() as f32,
    }
}
