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
    /// The settings of the members.
    pub fn members(&self, settings: &AttackSettings) -> Vec<AttackSettings> {
        let member = |&name: &&str| AttackSettings { attack: name.into(), ..settings.clone() };
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

/// An attack of an evaluation, after sequences have been taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Every default written out.
    pub settings: AttackSettings,
    /// The sequence that it belongs to.
    pub sequence: Option<&'static str>,
    /// Whether it is the first of its sequence, or alone.
    pub first: bool,
    /// Whether it is the last of its sequence, or alone.
    pub last: bool,
}

/// The attacks of a list, one by one: those that [`super::Outcome`] counts.
///
/// Errors: [`crate::ErrorKind::Param`] for settings that do not hold.
pub fn expand(attacks: &[AttackSettings]) -> Result<Vec<Planned>> {
    let mut planned = Vec::new();
    for settings in attacks {
        settings.check()?;
        let (sequence, members) = match find(&settings.attack) {
            Some(entry) => (Some(entry.name), entry.members(settings)),
            None => (None, vec![settings.clone()]),
        };
        for (i, member) in members.iter().enumerate() {
            let (first, last) = (i == 0, i + 1 == members.len());
            planned.push(Planned { settings: member.resolved()?, sequence, first, last });
        }
    }
    Ok(planned)
}
