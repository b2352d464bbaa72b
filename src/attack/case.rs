//! What an attack is given: network, images, settings, random numbers.

use super::{AttackSettings, FirstGradients, Network};
use crate::data::Split;
use crate::rng::Philox;
use crate::{Result, Seed, Tensor};
use rand::rngs::ChaCha8Rng;

/// What an attack is given.
pub struct Case<'a> {
    /// The network under attack.
    pub network: &'a Network<'a>,
    /// Images `[N, H, W, C]` in [0, 1]; in an evaluation all are classified correctly.
    pub x: &'a Tensor,
    /// Their true labels `[N]`.
    pub labels: &'a Tensor,
    /// Where each stands in its split.
    pub images: &'a [usize],
    /// Where to start: x, or a random point of the ball.
    pub start: Tensor,
    /// Radius, steps and what else a user can set, resolved.
    pub settings: &'a AttackSettings,
    /// Its random numbers.
    pub draws: Draws<'a>,
    /// All images that are attacked; `None` in training.
    pub split: Option<&'a Split>,
    /// Another network, for attacks that do not look into the one under attack.
    pub source: Option<&'a Network<'a>>,
    /// Where an evaluation notes the first gradients; `None` in training.
    pub first_gradients: Option<&'a FirstGradients>,
}

impl Case<'_> {
    /// Notes the gradients of all images at their starts, in an evaluation.
    pub(super) fn note_gradients(&self, gradient: &Tensor) -> Result<()> {
        if self.first_gradients.is_some() {
            let gradient = gradient.to_vec::<f32>()?;
            let size = gradient.len() / self.images.len().max(1);
            gradient.chunks(size.max(1)).enumerate().for_each(|(i, g)| self.note_gradient(i, g));
        }
        Ok(())
    }

    /// Notes the gradient of the `i`-th image of the case, in an evaluation, unless one was noted before.
    pub(super) fn note_gradient(&self, i: usize, gradient: &[f32]) {
        if let Some(all) = self.first_gradients {
            all.note(self.images[i], gradient);
        }
    }
}

/// The random numbers of one restart of an attack: those of an image do not depend on its batch.
#[derive(Clone, Copy)]
pub struct Draws<'a> {
    /// The seed of the run.
    pub seed: Seed,
    /// The name of the stream, one for each attack.
    pub stream: &'a str,
    /// The restart.
    pub restart: u32,
    /// How many attacks of the same name stand before it in the list, or the step of a training.
    pub turn: u64,
}

impl Draws<'_> {
    /// Numbers that are indexed by the position in the split's pixels.
    pub fn philox(&self) -> Philox {
        self.seed.stream(self.stream, self.turn, self.restart)
    }

    /// A generator for one image of the split.
    pub fn host(&self, image: usize) -> ChaCha8Rng {
        let name = format!("{}.{}.{}", self.stream, self.turn, self.restart);
        self.seed.host(&name, image as u64)
    }
}
