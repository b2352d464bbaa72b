//! `pgd` on another network: its images are counted on the network under attack, whose gradients are never asked for.
//!
//! Source: Papernot et al. 2017, arXiv 1602.02697; Madry et al. 2018.

use super::{AttackEntry, Case, Norm, Search, pgd};
use crate::{Error, Result, Tensor, ops};

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "transfer",
    summary: "pgd on another network (black box)",
    source: "arXiv 1602.02697",
    norm: Norm::Linf,
    search: Search::Ball,
    steps: 20,
    reads: &["steps", "step_size", "relative_step_size", "random_start", "restarts", "target"],
    resolve: pgd::resolve,
    perturb,
};

fn perturb(case: &Case) -> Result<Tensor> {
    let Some(source) = case.source else {
        return Err(Error::param("source", "none", "a network (--source MODEL) for transfer"));
    };
    pgd::descend(case, source, 1, ops::pgd_step)
}
