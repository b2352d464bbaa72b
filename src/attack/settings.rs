//! What an attack may do: radius, steps, restarts, target.

use super::{Epsilon, Target};
use serde::{Deserialize, Serialize};

/// `train.adversary` and an entry of `[[eval]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttackSettings {
    /// A name of [`super::ATTACKS`] or [`super::SEQUENCES`].
    pub attack: String,
    /// Radius of the ball in the attack's norm; pixels in [0, 1].
    pub eps: Epsilon,
    /// Steps; the attack's own number where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Length of a step in the attack's norm; where absent 2.5·eps/steps, `fgsm-rs` 1.25·eps, and in attacks without a ball
    /// the attack's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_size: Option<Epsilon>,
    /// The same as a multiple of eps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_step_size: Option<f64>,
    /// Whether it starts at a random point of the ball.
    pub random_start: bool,
    /// Attempts at an image; those after the first are spent on images still classified correctly.
    pub restarts: usize,
    /// The class that it drives images to; absent: away from their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// `pgd` and those like it, in an evaluation: an image has fallen with the first step that it is wrong at, and takes
    /// no more. False: the image after the last step counts, as published.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub early_stop: bool,
    /// `eot-pgd`: gradients a step, each under a draw of the network's noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eot_samples: Option<usize>,
    /// Searches for the weight of the loss (`cw-l2`, `zoo`); the attack's own number where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary_search_steps: Option<usize>,
    /// What the published program does where it is weaker than it could be (`cw-l2`, `bb-l0`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub faithful: bool,
    /// Steps between halvings of the trust region (`bb-l0`); steps/30 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_interval: Option<usize>,
}

impl Default for AttackSettings {
    fn default() -> Self {
        Self {
            attack: "pgd".into(),
            eps: Epsilon::try_from(8.0 / 255.0).unwrap_or_default(),
            steps: None,
            step_size: None,
            relative_step_size: None,
            random_start: true,
            restarts: 1,
            target: None,
            early_stop: false,
            eot_samples: None,
            binary_search_steps: None,
            faithful: false,
            decay_interval: None,
        }
    }
}

impl AttackSettings {
    /// The number of steps of resolved settings.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or(1)
    }

    /// The length of a step of resolved settings.
    pub(super) fn step_size(&self) -> f32 {
        self.step_size.unwrap_or_default().value()
    }
}
