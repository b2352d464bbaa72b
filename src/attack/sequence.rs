//! Attacks that are run one after the other, each on the images that still stand.

use super::AttackSettings;
use crate::Result;

/// An entry of [`SEQUENCES`].
pub struct SequenceEntry {
    /// The name in `--attack` and in `[[eval]]`.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Where it is published.
    pub source: &'static str,
    /// Names of [`super::ATTACKS`], in the order they run; each with its own defaults where the user sets nothing.
    pub members: &'static [&'static str],
}

impl SequenceEntry {
    /// The settings of the members: of each the keys that it reads.
    pub fn members(&self, settings: &AttackSettings) -> Result<Vec<AttackSettings>> {
        let member =
            |&name: &&str| AttackSettings { attack: name.into(), ..settings.clone() }.only_read();
        self.members.iter().map(member).collect()
    }
}

/// Every sequence.
pub const SEQUENCES: &[SequenceEntry] = &[SequenceEntry {
    name: "autoattack",
    summary: "the standard set: two forms of Auto-PGD, FAB and Square, L∞",
    source: "arXiv 2003.01690",
    members: &["apgd-ce", "apgd-t", "fab-t", "square"],
}];

/// The sequence of that name.
pub fn find(name: &str) -> Option<&'static SequenceEntry> {
    SEQUENCES.iter().find(|entry| entry.name == name)
}
