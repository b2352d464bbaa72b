//! Fast gradient sign method: `x̂ = clip(x + eps·sign ∇ₓ CE, 0, 1)`, from x itself; with a target
//! `clip(x − eps·sign ∇ₓ CE(target), 0, 1)`.
//!
//! Source: Goodfellow, Shlens & Szegedy 2015, arXiv 1412.6572.

use super::{AttackEntry, Case, Norm, Search, aim};
use crate::{Result, Tensor, ops};

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "fgsm",
    summary: "one step of eps along the sign of the gradient",
    source: "arXiv 1412.6572",
    norm: Norm::Linf,
    search: Search::OneStep,
    steps: 1,
    reads: &["target"],
    resolve: |settings| settings.step_size = Some(settings.eps),
    perturb,
};

fn perturb(case: &Case) -> Result<Tensor> {
    let aim = aim::aim(case, case.network)?;
    let gradient = case.network.input_gradient(&case.start, &aim.labels)?;
    case.note_gradients(&gradient)?;
    let eps = case.settings.eps.value();
    let mut adversarial = case.start.detach();
    ops::pgd_step(&mut adversarial, case.x, &gradient, eps, aim.sign * eps)?;
    Ok(adversarial)
}
