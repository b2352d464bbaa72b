//! Attacks: images within eps of the true ones that the network gets wrong. An attack proposes; the driver
//! draws the start, projects, clips to [0, 1] and recounts in eval mode.
//!
//! An attack is a file here and a line in [`ATTACKS`].

mod apgd;
mod attempt;
mod ball;
mod bb_l0;
mod cw_l2;
mod driver;
mod eot_pgd;
mod epsilon;
mod fab;
mod fgsm;
mod fgsm_rs;
mod hyperplane;
mod loss;
mod margin;
mod outcome;
mod per_image;
mod pgd;
mod pgd_l2;
mod sequence;
mod settings;
mod square;
mod target;
mod transfer;
mod warning;
mod zoo;

pub use attempt::adversary;
pub use driver::{Evaluation, Event, evaluate, predictions};
pub use epsilon::Epsilon;
pub use outcome::{Distances, Outcome};
pub use sequence::{Planned, SEQUENCES, SequenceEntry, expand};
pub use settings::AttackSettings;
pub use target::Target;
pub use warning::{Measured, warnings};

use attempt::rows;

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
    /// Writes out what the user has left to the attack.
    pub resolve: fn(&mut AttackSettings),
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

impl Norm {
    /// As lists print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linf => "L∞",
            Self::L2 => "L2",
            Self::L0 => "L0",
        }
    }
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

impl Search {
    /// As lists print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneStep | Self::Ball => "inside eps",
            Self::Nearest => "nearest",
        }
    }
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
    /// Radius, steps and what else a user can set, resolved.
    pub settings: &'a AttackSettings,
    /// Its random numbers.
    pub draws: Draws<'a>,
    /// All images that are attacked; `None` in training.
    pub split: Option<&'a Split>,
    /// Another network, for attacks that do not look into the one under attack.
    pub source: Option<&'a Network<'a>>,
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
pub const ATTACKS: &[AttackEntry] = &[
    fgsm::ENTRY,
    fgsm_rs::ENTRY,
    pgd::ENTRY,
    pgd_l2::ENTRY,
    eot_pgd::ENTRY,
    transfer::ENTRY,
    apgd::CROSS_ENTROPY,
    apgd::CROSS_ENTROPY_L2,
    apgd::TARGETED,
    apgd::TARGETED_L2,
    fab::LINF,
    fab::L2,
    square::ENTRY,
    cw_l2::ENTRY,
    bb_l0::ENTRY,
    zoo::ENTRY,
];

/// The attack of that name.
///
/// Errors: [`crate::ErrorKind::Param`] that lists those there are.
pub fn find(name: &str) -> Result<&'static AttackEntry> {
    ATTACKS.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let sequences = SEQUENCES.iter().map(|entry| entry.name);
        let names: Vec<&str> = ATTACKS.iter().map(|entry| entry.name).chain(sequences).collect();
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
        Ok(self.gradient_and_logits(x, labels)?.0)
    }

    /// [`Self::input_gradient`] and the logits of the same pass.
    fn gradient_and_logits(&self, x: &Tensor, labels: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut tape = Tape::new(self.mode);
        tape.watch(x);
        let logits = self.model.forward_eval(&mut tape, x, self.how)?;
        let loss = ops::softmax_xent(&mut tape, &logits, labels)?;
        let seed = Tensor::from_vec(vec![labels.len() as f32], &[1], &x.device())?;
        let mut gradients = tape.backward(&loss, seed)?;
        let gradient = gradients.take(x);
        let gradient =
            gradient.ok_or_else(|| Error::param("attack", "x", "what the logits depend on"))?;
        Ok((gradient, logits))
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
