//! The result of attacks on a network: what `rewire attack` prints and a report draws.

use super::sweep::Sweep;
use crate::attack::{
    AttackSettings, Distances, Epsilon, ExpandedAttack, Measured, Outcome, Search, expand, find,
    vanished_gradients, warnings,
};
use crate::data::Split;
use crate::{Error, Result, file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// What is left of the accuracy under attacks; accuracies in percent of all images.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attacked {
    /// The network's file.
    pub model: String,
    /// The data set.
    pub data: String,
    /// Images.
    pub images: usize,
    /// The seed of every random number.
    pub seed: u64,
    /// Arithmetic of matrix products.
    pub mode: String,
    /// Images at once.
    pub batch_size: usize,
    /// The network that `transfer` took its gradients from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The noise on the weights: α, or the file that it is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_noise: Option<String>,
    /// Without an attack.
    pub clean: f64,
    /// A row an attack; the members of a sequence one by one; under a sweep the whole list for each value.
    pub attacks: Vec<AttackRow>,
    /// Under all of them.
    pub worst: f64,
    /// What was varied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
    /// Signs that an attack is weaker than the network.
    pub warnings: Vec<String>,
}

/// One attack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttackRow {
    /// Every setting, defaults written out.
    #[serde(flatten)]
    pub settings: AttackSettings,
    /// The sequence that it is a member of; its accuracy is then that under all members up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// What eps is measured in.
    pub norm: String,
    /// Of an attack that looks for the nearest: at eps.
    pub accuracy: f64,
    /// Of an attack that looks for the nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distances: Option<Distances>,
    /// Of an attack that looks for the nearest: at the radii that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accuracy_at: Vec<AccuracyAt>,
}

/// Accuracy at one radius.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AccuracyAt {
    /// The radius.
    pub eps: Epsilon,
    /// Percent.
    pub accuracy: f64,
}

impl Attacked {
    /// Reads the file.
    ///
    /// Errors: [`crate::ErrorKind::Io`] or [`crate::ErrorKind::File`] for one that is no such result.
    pub fn load(path: &Path) -> Result<Self> {
        serde_json::from_slice(&file::read(path)?)
            .map_err(|error| Error::file(path, format!("is no result of rewire attack: {error}")))
    }

    /// Fills `clean`, `attacks`, `worst` and `warnings` in: `lists` are the attacks of each value of a sweep, or one list.
    pub fn count(
        &mut self,
        lists: &[Vec<AttackSettings>],
        outcomes: &[Outcome],
        split: &Split,
        at: &[Epsilon],
    ) -> Result<()> {
        let Some(first) = outcomes.first() else { return Ok(()) };
        self.clean = Outcome::percent(&first.clean);
        let lists: Vec<Vec<ExpandedAttack>> =
            lists.iter().map(|list| expand(list)).collect::<Result<_>>()?;
        let mut worst = first.clean.clone();
        self.attacks.clear();
        for (list, outcome) in lists.iter().zip(outcomes) {
            worst.iter_mut().zip(&outcome.worst).for_each(|(all, one)| *all &= one);
            for (attack, expanded) in list.iter().enumerate() {
                self.attacks.push(row(expanded, outcome, attack, at)?);
            }
        }
        self.worst = Outcome::percent(&worst);
        if let Some(sweep) = &mut self.sweep {
            sweep.worst = outcomes.iter().map(|one| Outcome::percent(&one.worst)).collect();
        }
        let runs: Vec<Vec<Measured>> =
            lists.iter().zip(outcomes).map(|(list, outcome)| measured(list, outcome)).collect();
        let vanished = lists.iter().zip(outcomes).flat_map(|(l, o)| vanished_gradients(l, o));
        self.warnings = warnings(split, &runs).into_iter().chain(vanished).collect();
        let mut seen = BTreeSet::new();
        self.warnings.retain(|line| seen.insert(line.clone()));
        Ok(())
    }
}

/// The attacks of a list that meet every image: a member of a sequence meets only what those before it have left.
fn measured<'a>(list: &'a [ExpandedAttack], outcome: &Outcome) -> Vec<Measured<'a>> {
    let alone = list.iter().zip(&outcome.robust).filter(|(one, _)| one.sequence.is_none());
    alone
        .map(|(one, robust)| Measured {
            settings: &one.settings,
            accuracy: Outcome::percent(robust),
        })
        .collect()
}

fn row(
    expanded: &ExpandedAttack,
    outcome: &Outcome,
    attack: usize,
    at: &[Epsilon],
) -> Result<AttackRow> {
    let entry = find(&expanded.settings.attack)?;
    let nearest = entry.search == Search::Nearest && expanded.sequence.is_none();
    let accuracy_at =
        |&eps: &Epsilon| AccuracyAt { eps, accuracy: outcome.percent_at(attack, eps.value()) };
    Ok(AttackRow {
        settings: expanded.settings.clone(),
        sequence: expanded.sequence.map(str::to_owned),
        norm: entry.norm.name().into(),
        accuracy: Outcome::percent(&outcome.robust[attack]),
        distances: nearest.then(|| outcome.spread(attack)),
        accuracy_at: if nearest { at.iter().map(accuracy_at).collect() } else { Vec::new() },
    })
}
