//! The list of attacks as an evaluation runs it: sequences taken apart, defaults written out.

use super::{AttackSettings, sequence};
use crate::Result;

/// An attack of an evaluation, after sequences have been taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpandedAttack {
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
pub fn expand(attacks: &[AttackSettings]) -> Result<Vec<ExpandedAttack>> {
    let mut expanded = Vec::new();
    for settings in attacks {
        settings.check()?;
        let (sequence, members) = match sequence::find(&settings.attack) {
            Some(entry) => (Some(entry.name), entry.members(settings)?),
            None => (None, vec![settings.clone()]),
        };
        for (i, member) in members.iter().enumerate() {
            let (first, last) = (i == 0, i + 1 == members.len());
            expanded.push(ExpandedAttack { settings: member.resolved()?, sequence, first, last });
        }
    }
    Ok(expanded)
}
