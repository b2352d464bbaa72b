//! Attacks: images within eps of the true ones that the network gets wrong. An attack proposes; the driver
//! draws the start, projects, clips to [0, 1] and recounts in eval mode.
//!
//! An attack is a file here and a line in [`ATTACKS`].

mod driver;
mod fgsm;
mod pgd;
mod settings;

pub use driver::{Outcome, adversary, evaluate, predictions};
pub use settings::{AttackSettings, Epsilon};

use crate::nn::{Execution, Model};
use crate::{Error, Mode, Result, Tape, Tensor, ops};

/// One way to look for adversarial images.
pub trait Attack: Sync {
    /// Images near `x`, from the starting point `start`; the driver projects the result.
    ///
    /// Shapes: x, start and result `[N, H, W, C]`, labels `[N]`. Units: pixels in [0, 1].
    fn perturb(
        &self,
        network: &Network,
        x: &Tensor,
        labels: &Tensor,
        start: Tensor,
        settings: &AttackSettings,
    ) -> Result<Tensor>;

    /// Whether it takes several steps from a random point of the ball, so that a restart finds something else. One
    /// that does not ignores steps, step size, random start and restarts.
    fn iterative(&self) -> bool;
}

/// An entry of [`ATTACKS`].
pub struct AttackEntry {
    /// The name in `--attack` and in recipes.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Where it is published.
    pub source: &'static str,
    /// The attack.
    pub attack: &'static dyn Attack,
}

/// Every attack.
pub const ATTACKS: &[AttackEntry] = &[fgsm::ENTRY, pgd::ENTRY];

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
}
