//! Projected gradient descent in the L∞ ball: K times
//! `x̂ ← min(max(x̂ + step_size·sign ∇ CE, max(x − eps, 0)), min(x + eps, 1))`, labels true.
//!
//! Source: Madry et al. 2018, arXiv 1706.06083.

use super::{AttackEntry, Case, Norm, Search};
use crate::{Result, Tensor, ops};

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "pgd",
    summary: "projected gradient descent in the L∞ ball, random start",
    source: "arXiv 1706.06083",
    norm: Norm::Linf,
    search: Search::Ball,
    steps: 20,
    perturb,
};

fn perturb(case: &Case) -> Result<Tensor> {
    let (eps, step_size) = (case.settings.eps.value(), case.settings.step_size());
    let mut adversarial = case.start.clone();
    for _ in 0..case.settings.steps() {
        let gradient = case.network.input_gradient(&adversarial, case.labels)?;
        ops::pgd_step(&mut adversarial, case.x, &gradient, eps, step_size)?;
    }
    Ok(adversarial)
}
