//! Every attack, by its name.

use super::{AttackEntry, SEQUENCES};
use super::{apgd, bb_l0, cw_l2, eot_pgd, fab, fgsm, fgsm_rs, pgd, pgd_l2, square, transfer, zoo};
use crate::{Error, Result};

/// Every attack.
pub const ATTACKS: &[AttackEntry] = &[
    fgsm::ENTRY,
    fgsm_rs::ENTRY,
    pgd::ENTRY,
    pgd_l2::ENTRY,
    eot_pgd::ENTRY,
    transfer::ENTRY,
    apgd::CROSS_ENTROPY,
    apgd::CROSS_ENTROPY_L2,
    apgd::TARGETED,
    apgd::TARGETED_L2,
    fab::LINF,
    fab::L2,
    square::ENTRY,
    cw_l2::ENTRY,
    bb_l0::ENTRY,
    zoo::ENTRY,
];

/// The attack of that name.
///
/// Errors: [`crate::ErrorKind::Param`] that lists those there are.
pub fn find(name: &str) -> Result<&'static AttackEntry> {
    ATTACKS.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let sequences = SEQUENCES.iter().map(|entry| entry.name);
        let names: Vec<&str> = ATTACKS.iter().map(|entry| entry.name).chain(sequences).collect();
        Error::param("attack", name, format!("one of {}", names.join(", ")))
    })
}
