//! `rewire list`: what the registries hold.

use super::{Context, Outcome};
use crate::attack::{ATTACKS, SEQUENCES};
use crate::models::MODELS;
use crate::prune::METHODS;
use crate::run::recipes::{RECIPES, summary};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Names of methods, attacks, models, recipes
#[derive(clap::Args)]
pub(super) struct Args {
    /// One kind; all of them without it
    #[arg(value_enum)]
    kind: Option<Kind>,
}

/// A registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Methods,
    Attacks,
    Models,
    Recipes,
}

/// A line of a registry.
#[derive(Serialize)]
struct Entry {
    name: &'static str,
    summary: String,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Methods, Self::Attacks, Self::Models, Self::Recipes];

    fn entries(self) -> Vec<Entry> {
        let entry = |name, summary: &str| Entry { name, summary: summary.to_owned() };
        match self {
            Self::Methods => METHODS.iter().map(|m| entry(m.name, m.summary)).collect(),
            Self::Attacks => {
                let alone = ATTACKS.iter().map(|a| {
                    let kind =
                        format!("{:<3} {:<10}  {}", a.norm.name(), a.search.name(), a.summary);
                    entry(a.name, &kind)
                });
                alone.chain(SEQUENCES.iter().map(|s| entry(s.name, s.summary))).collect()
            }
            Self::Models => MODELS.iter().map(|m| entry(m.name, m.summary)).collect(),
            Self::Recipes => {
                RECIPES.iter().map(|(name, text)| entry(name, &summary(text))).collect()
            }
        }
    }
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let kinds = self.kind.map_or(Kind::ALL.to_vec(), |kind| vec![kind]);
        let all: BTreeMap<Kind, Vec<Entry>> =
            kinds.into_iter().map(|kind| (kind, kind.entries())).collect();
        let mut text = String::new();
        for (kind, entries) in &all {
            let title = format!("{kind:?}").to_lowercase();
            writeln!(text, "{title}")?;
            let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
            for Entry { name, summary } in entries {
                writeln!(text, "  {name:width$}  {summary}")?;
            }
        }
        context.print(&text, &all)?;
        Ok(Outcome::Done)
    }
}
