//! Projected gradient descent in the L∞ ball: K times
//! `x̂ ← min(max(x̂ + step_size·sign ∇ CE, max(x − eps, 0)), min(x + eps, 1))`, labels true.
//!
//! Source: Madry et al. 2018, arXiv 1706.06083.

use super::{Attack, AttackEntry, AttackSettings, Network};
use crate::{Result, Tensor, ops};

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "pgd",
    summary: "projected gradient descent in the L∞ ball, random start",
    source: "arXiv 1706.06083",
    attack: &Pgd,
};

struct Pgd;

impl Attack for Pgd {
    fn perturb(
        &self,
        network: &Network,
        x: &Tensor,
        labels: &Tensor,
        start: Tensor,
        settings: &AttackSettings,
    ) -> Result<Tensor> {
        let (eps, step_size) = (settings.eps.value(), settings.step_size());
        let mut adversarial = start;
        for _ in 0..settings.steps {
            let gradient = network.input_gradient(&adversarial, labels)?;
            ops::pgd_step(&mut adversarial, x, &gradient, eps, step_size)?;
        }
        Ok(adversarial)
    }

    fn iterative(&self) -> bool {
        true
    }
}
