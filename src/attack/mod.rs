//! Attacks: images within eps of the true ones that the network gets wrong. An attack proposes; the driver
//! draws the start, projects, clips to [0, 1] and recounts in eval mode.
//!
//! An attack is a file here and a line in [`ATTACKS`].

mod bb_l0;
mod cw_l2;
mod driver;
mod fgsm;
mod margin;
mod per_image;
mod pgd;
mod settings;
mod zoo;

pub use driver::{Outcome, adversary, evaluate, predictions};
pub use settings::{AttackSettings, Epsilon};

use crate::data::Split;
use crate::nn::{Execution, Model};
use crate::rng::Philox;
use crate::{Error, Mode, Result, Seed, Tape, Tensor, ops};
use rand::rngs::ChaCha8Rng;

/// An entry of [`ATTACKS`].
pub struct AttackEntry {
    /// The name in `--attack` and in recipes.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Where it is published.
    pub source: &'static str,
    /// What eps and distances are measured in.
    pub norm: Norm,
    /// What it looks for.
    pub search: Search,
    /// Its steps where none are given.
    pub steps: usize,
    /// The attack: images near [`Case::x`], of its shape. The driver projects and recounts them.
    pub perturb: fn(&Case) -> Result<Tensor>,
}

/// How far an image is from another: over all pixels of all channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// The largest difference.
    Linf,
    /// The root of the summed squares.
    L2,
    /// The number of values that differ.
    L0,
}

/// What an attack looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// One step from the image itself: steps, step size, random start and restarts are not read.
    OneStep,
    /// A wrong image inside the ball of radius eps. A restart finds something else.
    Ball,
    /// The nearest wrong image, anywhere in [0, 1]; eps is only what the accuracy is counted at. Where it finds none
    /// it returns the image itself.
    Nearest,
}

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
    /// Radius, steps and what else a user can set.
    pub settings: &'a AttackSettings,
    /// Its random numbers.
    pub draws: Draws<'a>,
    /// All images that are attacked; `None` in training.
    pub split: Option<&'a Split>,
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

/// Every attack.
pub const ATTACKS: &[AttackEntry] =
    &[fgsm::ENTRY, pgd::ENTRY, cw_l2::ENTRY, bb_l0::ENTRY, zoo::ENTRY];

/// The attack of that name.
///
/// Errors: [`crate::ErrorKind::Param`] that lists those there are.
pub fn find(name: &str) -> Result<&'static AttackEntry> {
    ATTACKS.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let names: Vec<&str> = ATTACKS.iter().map(|entry| entry.name).collect();
        Error::param("attack", name, format!("one of {}", names.join(", ")))
    })
}

/// A network as attacks see it: in eval mode, its gradient only with respect to pixels.
pub struct Network<'a> {
    /// The network; running statistics stay as they are.
    pub model: &'a Model,
    /// How its layers run.
    pub how: &'a Execution,
    /// Arithmetic of matrix products.
    pub mode: Mode,
}

impl Network<'_> {
    /// Logits `[N, classes]` of `x [N, H, W, C]`.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.model.forward_eval(&mut Tape::new(self.mode), x, self.how)
    }

    /// `∂/∂x Σ_n CE(logits(x_n), label_n)`: a sum, so that no factor 1/N underflows.
    pub fn input_gradient(&self, x: &Tensor, labels: &Tensor) -> Result<Tensor> {
        let mut tape = Tape::new(self.mode);
        tape.watch(x);
        let logits = self.model.forward_eval(&mut tape, x, self.how)?;
        let loss = ops::softmax_xent(&mut tape, &logits, labels)?;
        let seed = Tensor::from_vec(vec![labels.len() as f32], &[1], &x.device())?;
        let mut gradients = tape.backward(&loss, seed)?;
        gradients.take(x).ok_or_else(|| Error::param("attack", "x", "what the logits depend on"))
    }

    /// Logits `[N·classes]` of `x [N, H, W, C]`, and `∂L/∂x` of a function L of them: `loss` is given the logits and
    /// returns `∂L/∂logits`.
    pub fn logits_and_gradient(
        &self,
        x: &Tensor,
        loss: impl FnOnce(&[f32]) -> Result<Vec<f32>>,
    ) -> Result<(Vec<f32>, Tensor)> {
        let mut tape = Tape::new(self.mode);
        tape.watch(x);
        let logits = self.model.forward_eval(&mut tape, x, self.how)?;
        let values = logits.to_vec::<f32>()?;
        let seed = Tensor::from_vec(loss(&values)?, logits.shape(), &x.device())?;
        let mut gradients = tape.backward(&logits, seed)?;
        let gradient = gradients.take(x);
        let missing = || Error::param("attack", "x", "what the logits depend on");
        Ok((values, gradient.ok_or_else(missing)?))
    }
}
