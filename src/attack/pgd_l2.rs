//! Projected gradient descent in the L2 ball: uniform start in the ball, K steps along `∇ CE / ‖∇ CE‖₂`, each projected
//! onto the ball and [0, 1]. A gradient of zero moves nothing.
//!
//! Source: Madry et al. 2018, arXiv 1706.06083; start and normalisation as in Foolbox.

use super::{AttackEntry, Case, Norm, Search, pgd};
use crate::{Result, Tensor, ops};

/// The line in the registry.
pub const ENTRY: AttackEntry = AttackEntry {
    name: "pgd-l2",
    summary: "projected gradient descent in the L2 ball, random start",
    source: "arXiv 1706.06083",
    norm: Norm::L2,
    search: Search::Ball,
    steps: 20,
    reads: pgd::READS,
    resolve: pgd::resolve,
    perturb,
};

fn perturb(case: &Case) -> Result<Tensor> {
    pgd::descend(case, case.network, 1, ops::pgd_l2_step)
}
