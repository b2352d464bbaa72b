//! Fast gradient sign method: `x̂ = clip(x + eps·sign ∇ₓ CE, 0, 1)`, from x itself.
//!
//! Source: Goodfellow, Shlens & Szegedy 2015, arXiv 1412.6572.

use super::{Attack, AttackEntry, AttackSettings, Network};
use crate::{Result, Tensor, ops};

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "fgsm",
    summary: "one step of eps along the sign of the gradient",
    source: "arXiv 1412.6572",
    attack: &Fgsm,
};

struct Fgsm;

impl Attack for Fgsm {
    fn perturb(
        &self,
        network: &Network,
        x: &Tensor,
        labels: &Tensor,
        start: Tensor,
        settings: &AttackSettings,
    ) -> Result<Tensor> {
        let gradient = network.input_gradient(&start, labels)?;
        let eps = settings.eps.value();
        let mut adversarial = start.detach();
        ops::pgd_step(&mut adversarial, x, &gradient, eps, eps)?;
        Ok(adversarial)
    }

    fn iterative(&self) -> bool {
        false
    }
}
