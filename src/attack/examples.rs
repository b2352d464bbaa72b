//! The adversarial examples that are kept of a batch.

use super::{ExpandedAttack, Norm, Outcome, Search, find};
use crate::Result;
use crate::data::Batch;

/// What the attacks have found in a batch so far.
pub(super) struct AdversarialExamples {
    /// Whether each image has no example inside the radius of the attack that made it.
    standing: Vec<bool>,
    /// Examples inside the radius; of attacks that all search the nearest, at any distance.
    kept: Examples,
    /// Beside attacks inside a ball: the nearest examples, at any distance.
    nearest: Option<Examples>,
}

/// An example for each image; the image itself where there is none.
struct Examples {
    images: Vec<f32>,
    /// The norm of the attack that found the example; `None` without one.
    norms: Vec<Option<Norm>>,
    distances: Vec<f32>,
    /// Whether the example lies inside the radius of the attack that found it.
    inside: Vec<bool>,
}

/// An image that the network gets wrong.
pub(super) struct Found<'a> {
    pub pixels: &'a [f32],
    pub norm: Norm,
    pub search: Search,
    /// In `norm`.
    pub distance: f32,
    /// Whether it lies inside the attack's radius.
    pub inside: bool,
}

impl AdversarialExamples {
    /// None yet; `clean` says which images are classified correctly without an attack.
    pub(super) fn new(batch: &Batch, clean: &[bool], attacks: &[ExpandedAttack]) -> Result<Self> {
        let searches_nearest =
            |one: &ExpandedAttack| Ok(find(&one.settings.attack)?.search == Search::Nearest);
        let nearest = attacks.iter().map(searches_nearest);
        let nearest = nearest.collect::<Result<Vec<bool>>>()?;
        let examples = || {
            let (images, n) = (batch.images.clone(), clean.len());
            let (norms, distances, inside) = (vec![None; n], vec![0.0; n], vec![false; n]);
            Examples { images, norms, distances, inside }
        };
        let both = nearest.contains(&true) && nearest.contains(&false);
        let (kept, nearest) = (examples(), both.then(examples));
        Ok(Self { standing: clean.to_vec(), kept, nearest })
    }

    /// Keeps what was found for an image where it is better than what there is.
    pub(super) fn add(&mut self, image: usize, found: &Found) {
        if found.inside {
            self.standing[image] = false;
        }
        match &mut self.nearest {
            None => self.kept.add(image, found),
            Some(nearest) => {
                if found.search == Search::Nearest {
                    nearest.add(image, found);
                }
                if found.inside {
                    self.kept.add(image, found);
                }
            }
        }
    }

    /// Appends the batch to `outcome`; `clean` as in [`Self::new`].
    pub(super) fn finish(self, outcome: &mut Outcome, clean: Vec<bool>) {
        let Self { standing, kept, nearest } = self;
        outcome.worst.extend(standing);
        outcome.found.extend(kept.norms.iter().map(Option::is_some));
        outcome.distance.extend(kept.distances);
        outcome.adversarial.extend(kept.images);
        if let Some(Examples { images, norms, distances, .. }) = nearest {
            let none = |&clean: &bool| if clean { f32::INFINITY } else { 0.0 };
            let each = norms.iter().zip(distances).zip(&clean);
            outcome.nearest_distance.extend(
                each.map(|((norm, d), clean)| if norm.is_some() { d } else { none(clean) }),
            );
            outcome.nearest.extend(images);
        }
        outcome.clean.extend(clean);
    }
}

impl Examples {
    /// Of several attacks the first that finds something is kept; what another one of the same norm finds replaces it where
    /// that attack searches the nearest and came nearer, or is the first to come inside its radius.
    fn add(&mut self, image: usize, found: &Found) {
        let nearer = found.search == Search::Nearest && found.distance < self.distances[image];
        let better = nearer || (found.inside && !self.inside[image]);
        if self.norms[image].is_some_and(|held| held != found.norm || !better) {
            return;
        }
        let size = found.pixels.len();
        self.inside[image] = found.inside;
        self.norms[image] = Some(found.norm);
        self.distances[image] = found.distance;
        self.images[image * size..][..size].copy_from_slice(found.pixels);
    }
}
