//! The result of attacks on a network, as `rewire attack` prints it and `rewire report` draws it.

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

/// Accuracies without and under attacks, in percent of all images.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attacked {
    /// File of the network.
    pub model: String,
    /// The data set.
    pub data: String,
    /// Number of images.
    pub images: usize,
    /// The seed of every random number.
    pub seed: u64,
    /// Arithmetic of matrix products.
    pub mode: String,
    /// Images in a batch.
    pub batch_size: usize,
    /// The network that `transfer` took its gradients from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The noise on the weights: α, or the file that α was read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_noise: Option<String>,
    /// Accuracy without an attack.
    pub clean: f64,
    /// One row for each attack. A sequence has one row for each of its members. A sweep has all these rows for each value.
    pub attacks: Vec<AttackRow>,
    /// Accuracy under all attacks: an image counts where no attack succeeds.
    pub worst: f64,
    /// The setting that was varied, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
    /// Signs that an attack was too weak to measure the network.
    pub warnings: Vec<String>,
}

/// One attack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttackRow {
    /// Every setting, with the defaults written out.
    #[serde(flatten)]
    pub settings: AttackSettings,
    /// The sequence that this attack is a member of. The accuracy is then that under all members up to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// The norm that eps is measured in.
    pub norm: String,
    /// Accuracy in percent at eps.
    pub accuracy: f64,
    /// Distances that were found, for an attack that looks for the nearest adversarial example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distances: Option<Distances>,
    /// Accuracies at the radii of `--at-eps`, for an attack that looks for the nearest adversarial example.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accuracy_at: Vec<AccuracyAt>,
}

/// Accuracy at one radius.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AccuracyAt {
    /// The radius.
    pub eps: Epsilon,
    /// Accuracy in percent.
    pub accuracy: f64,
}

impl Attacked {
    /// Reads a result that `rewire attack --out` or `--json` has written.
    ///
    /// Errors: [`crate::ErrorKind::Io`] or [`crate::ErrorKind::File`] for a file that is no such result.
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
