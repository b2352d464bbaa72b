//! Fast gradient sign method from a random start: a uniform point of the ball, one step of 1.25·eps along the sign of the
//! gradient there, projected.
//!
//! Source: Wong, Rice & Kolter 2020, arXiv 2001.03994.

use super::{AttackEntry, AttackSettings, Epsilon, Norm, Search, pgd};

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "fgsm-rs",
    summary: "one step of 1.25 eps along the sign of the gradient, random start",
    source: "arXiv 2001.03994",
    norm: Norm::Linf,
    search: Search::Ball,
    steps: 1,
    reads: &["step_size", "relative_step_size", "random_start", "restarts", "target", "early_stop"],
    resolve,
    perturb: pgd::perturb,
};

fn resolve(settings: &mut AttackSettings) {
    settings.step_size.get_or_insert(Epsilon::nearest(1.25 * settings.eps.exact()));
}
