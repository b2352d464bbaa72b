//! `pgd` through noise: every step follows the mean of the gradients under several draws of the noise on the network's
//! weights (expectation over transformations). Without noise the gradients are equal, and it is `pgd`.
//!
//! Source: Athalye et al. 2018, arXiv 1707.07397; against injected noise: arXiv 2002.08347.

use super::{AttackEntry, AttackSettings, Case, Norm, Search, pgd};
use crate::{Result, Tensor, ops};

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "eot-pgd",
    summary: "pgd by the mean gradient over draws of the noise on weights",
    source: "arXiv 1707.07397",
    norm: Norm::Linf,
    search: Search::Ball,
    steps: 20,
    reads: &[
        "steps",
        "step_size",
        "relative_step_size",
        "random_start",
        "restarts",
        "target",
        "early_stop",
        "eot_samples",
    ],
    resolve,
    perturb,
};

fn resolve(settings: &mut AttackSettings) {
    pgd::resolve(settings);
    settings.eot_samples.get_or_insert(10);
}

fn perturb(case: &Case) -> Result<Tensor> {
    let samples = if case.network.weights.noise.is_some() {
        case.settings.eot_samples.unwrap_or(1)
    } else {
        1
    };
    pgd::descend(case, case.network, samples, ops::pgd_step)
}
