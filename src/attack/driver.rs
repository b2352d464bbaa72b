//! The driver of every attack: batches, restarts, sequences, and the count of what fell.

use super::attempt::{attempt, radius, restarts, starting_point};
use super::examples::{AdversarialExamples, Found};
use super::{
    AttackSettings, Case, Draws, ExpandedAttack, FirstGradients, Network, Outcome, Target, expand,
    find, predictions, rows,
};
use crate::data::{Batch, Loader, Split};
use crate::{Error, Result, Seed, Tensor};
use rand::Rng;

/// Attacks on every image of a split.
pub struct Evaluation<'a> {
    /// The network under attack.
    pub network: &'a Network<'a>,
    /// What `transfer` takes its gradients from.
    pub source: Option<&'a Network<'a>>,
    /// The images.
    pub split: &'a Split,
    /// The attacks.
    pub attacks: &'a [AttackSettings],
    /// Images at once.
    pub batch_size: usize,
    /// The seed of every random number.
    pub seed: Seed,
}

/// How far an evaluation has come.
pub enum Event<'a> {
    /// An attempt of an attack on a batch is over: so many images were done before the batch, so large a share of it is.
    Attempt {
        /// Images of whole batches.
        images: usize,
        /// Of the batch at work, from 0 to 1.
        share: f64,
        /// Images of the batch at work.
        batch: usize,
    },
    /// A batch is over; what is known so far.
    Batch(&'a Outcome),
}

/// [`Evaluation::run`] where nothing is transferred and only whole batches matter.
pub fn evaluate(
    network: &Network,
    split: &Split,
    attacks: &[AttackSettings],
    batch_size: usize,
    seed: Seed,
    done: Outcome,
    progress: &mut dyn FnMut(&Outcome) -> Result<()>,
) -> Result<Outcome> {
    let evaluation = Evaluation { network, source: None, split, attacks, batch_size, seed };
    evaluation.run(done, &mut |event| match event {
        Event::Batch(outcome) => progress(outcome),
        Event::Attempt { .. } => Ok(()),
    })
}

impl Evaluation<'_> {
    /// Runs every attack on every image that `done` does not cover yet, in batches, in order. `observe` hears how far it
    /// is; its error ends the work.
    ///
    /// An image that is wrong without an attack counts as fallen under each and is left as it is; eps = 0 therefore
    /// gives the clean accuracy. Starts do not depend on the batch size; draws of a network's noise do.
    pub fn run(
        &self,
        done: Outcome,
        observe: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Outcome> {
        let expanded = expand(self.attacks)?;
        if self.source.is_none() && expanded.iter().any(|one| one.settings.attack == "transfer") {
            return Err(Error::param("source", "none", "a network (--source MODEL) for transfer"));
        }
        self.split.check_labels(self.network.model.arch().classes)?;
        self.split.labels()?;
        let mut outcome = done;
        outcome.robust.resize(expanded.len(), Vec::new());
        outcome.distances.resize(expanded.len(), Vec::new());
        outcome.usable_gradients.resize(expanded.len(), Vec::new());
        let loader = Loader::new(self.split, self.batch_size)?;
        let epoch = loader.epoch(0);
        while let Some(batch) = epoch.batch(outcome.clean.len().div_ceil(self.batch_size)) {
            self.batch(&batch, &expanded, &mut outcome, observe)?;
            observe(Event::Batch(&outcome))?;
        }
        Ok(outcome)
    }

    fn batch(
        &self,
        batch: &Batch,
        expanded: &[ExpandedAttack],
        outcome: &mut Outcome,
        observe: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        let Self { network, source, seed, .. } = *self;
        let device = network.model.device();
        let [_, c, h, w] = self.split.shape;
        let x = Tensor::from_vec(batch.images.clone(), &[batch.len(), h, w, c], device)?;
        let labels = Tensor::from_vec(batch.labels.clone(), &[batch.len()], device)?;
        self.begin_noise("attack.clean.0.0", batch);
        let clean = correct(network, &x, &batch.labels)?;
        let mut examples = AdversarialExamples::new(batch, &clean, expanded)?;
        let before = outcome.clean.len();
        let mut standing = clean.clone();
        for (attack, ExpandedAttack { settings, sequence, first, .. }) in
            expanded.iter().enumerate()
        {
            if *first {
                standing.clone_from(&clean);
            }
            let stream = format!("attack.{}", settings.attack);
            let same = |earlier: &&ExpandedAttack| earlier.settings.attack == settings.attack;
            let turn = expanded[..attack].iter().filter(same).count() as u64;
            let draws = Draws { seed, stream: &stream, restart: 0, turn };
            let (x, labels, images) = (&x, &labels, &batch.index[..]);
            let gradients = FirstGradients::default();
            let case = Case {
                network,
                x,
                labels,
                images,
                start: x.clone(),
                settings,
                draws,
                split: Some(self.split),
                source,
                first_gradients: Some(&gradients),
            };
            let mut found: Vec<f32> =
                clean.iter().map(|&c| if c { f32::INFINITY } else { 0.0 }).collect();
            self.restarts(&case, batch, &standing, &mut found, &mut examples, &mut |share| {
                let share = (attack as f64 + share) / expanded.len() as f64;
                observe(Event::Attempt { images: before, share, batch: batch.len() })
            })?;
            let radius = radius(settings)?;
            let mut robust: Vec<bool> = found.iter().map(|&found| found > radius).collect();
            if sequence.is_some() {
                robust.iter_mut().zip(&standing).for_each(|(robust, before)| *robust &= before);
                standing.clone_from(&robust);
            }
            outcome.robust[attack].extend(robust);
            outcome.distances[attack].extend(found);
            let usable = images.iter().map(|&image| gradients.usable(image));
            outcome.usable_gradients[attack].extend(usable);
        }
        examples.finish(outcome, clean);
        Ok(())
    }

    /// All restarts of the attack of `case` on the images that are `standing`. `observe` hears what share of them is over.
    fn restarts(
        &self,
        case: &Case,
        batch: &Batch,
        standing: &[bool],
        found: &mut [f32],
        examples: &mut AdversarialExamples,
        observe: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<()> {
        let all = restarts(case.settings)?;
        for restart in 0..all {
            let open = |&i: &usize| {
                standing[i] && found[i].is_infinite() && !left_alone(case.settings, batch.labels[i])
            };
            let left: Vec<usize> = (0..found.len()).filter(open).collect();
            if left.is_empty() {
                break;
            }
            let draws = Draws { restart: restart as u32, ..case.draws };
            self.begin_noise(&format!("{}.{}.{restart}", draws.stream, draws.turn), batch);
            attempt_on(case, draws, &left, found, examples)?;
            observe((restart + 1) as f64 / all as f64)?;
        }
        Ok(())
    }

    /// Draws of the network's noise depend on attack, restart and batch, not on what ran before.
    fn begin_noise(&self, name: &str, batch: &Batch) {
        let first = batch.index.first().map_or(0, |&image| image as u64);
        for (network, name) in [(Some(self.network), name), (self.source, "source")] {
            if let Some(noise) = network.and_then(|network| network.weights.noise.as_ref()) {
                noise.begin(self.seed.host(name, first).next_u64());
            }
        }
    }
}

/// An image of the very class that images are driven to has no target.
fn left_alone(settings: &AttackSettings, label: i32) -> bool {
    matches!(settings.target, Some(Target::Class(class)) if usize::try_from(label) == Ok(class))
}

/// One attempt on the images `left` of a batch; writes how far the examples are into `found`, see [`Outcome::distances`].
fn attempt_on(
    whole: &Case,
    draws: Draws,
    left: &[usize],
    found: &mut [f32],
    examples: &mut AdversarialExamples,
) -> Result<()> {
    let entry = find(&whole.settings.attack)?;
    let x = rows::<f32>(whole.x, left)?;
    let labels = rows::<i32>(whole.labels, left)?;
    let start = starting_point(whole.x, whole.settings, draws, whole.images)?;
    let candidates = attempt(&Case {
        x: &x,
        labels: &labels,
        images: &left.iter().map(|&i| whole.images[i]).collect::<Vec<_>>(),
        start: rows::<f32>(&start, left)?,
        draws,
        ..*whole
    })?;
    let held = correct(whole.network, &candidates, &labels.to_vec::<i32>()?)?;
    let (pixels, originals) = (candidates.to_vec::<f32>()?, x.to_vec::<f32>()?);
    let size = pixels.len() / left.len();
    let radius = radius(whole.settings)?;
    for (k, &i) in left.iter().enumerate().filter(|(k, _)| !held[*k]) {
        let (example, original) = (&pixels[k * size..][..size], &originals[k * size..][..size]);
        found[i] = entry.norm.distance(example, original);
        let (norm, search, distance) = (entry.norm, entry.search, found[i]);
        let inside = distance <= radius;
        examples.add(i, &Found { pixels: example, norm, search, distance, inside });
    }
    Ok(())
}

fn correct(network: &Network, x: &Tensor, labels: &[i32]) -> Result<Vec<bool>> {
    let classes = predictions(&network.logits(x)?)?;
    let right = |(class, &label): (Option<usize>, &i32)| {
        class.is_some_and(|class| usize::try_from(label) == Ok(class))
    };
    Ok(classes.into_iter().zip(labels).map(right).collect())
}
