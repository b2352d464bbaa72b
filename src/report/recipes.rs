//! What differs between the recipes of the runs.

use super::input::Report;
use super::networks::Networks;
use super::section::{Part, Section};
use super::table::Table;
use crate::Result;
use std::collections::BTreeMap;

/// Characters of a value that a cell has room for.
const ROOM: usize = 120;

/// The section.
pub fn section(report: &Report, networks: &Networks) -> Result<Option<Section>> {
    if report.runs.len() < 2 {
        return Ok(None);
    }
    let table = table(report, networks);
    let part = match table.rows.is_empty() {
        true => Part::text("The recipes of the runs do not differ."),
        false => Part::Table(table),
    };
    Ok(Section::new("recipes", "Recipes", vec![part]))
}

/// One row a key that two recipes give different values.
fn table(report: &Report, networks: &Networks) -> Table {
    let recipes: Vec<BTreeMap<String, String>> =
        report.runs.iter().map(|run| flat(&run.recipe)).collect();
    let mut keys: Vec<&String> = recipes.iter().flat_map(BTreeMap::keys).collect();
    keys.sort();
    keys.dedup();
    let values = |key: &String| recipes.iter().map(|recipe| recipe.get(key)).collect::<Vec<_>>();
    keys.retain(|key| {
        let values = values(key);
        *key != "name" && values.iter().any(|value| *value != values[0])
    });
    let row = |key: &&String| {
        let cells =
            values(key).into_iter().map(|value| value.cloned().unwrap_or_else(|| "–".into()));
        std::iter::once((*key).clone()).chain(cells).collect()
    };
    let names = networks.runs.iter().map(|&network| networks.name(network).to_owned());
    Table {
        title: "What differs between the recipes".into(),
        note: "Keys of recipe.toml that do not have the same value in every run. A dash: the recipe has no such key.".into(),
        header: std::iter::once("key".to_owned()).chain(names).collect(),
        rows: keys.iter().map(row).collect(),
        ..Table::default()
    }
}

/// The keys that two recipes give different values, but for the name.
pub fn differing(a: &toml::Table, b: &toml::Table) -> Vec<String> {
    let (a, b) = (flat(a), flat(b));
    let mut keys: Vec<&String> =
        a.keys().chain(b.keys()).filter(|key| a.get(*key) != b.get(*key)).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter().filter(|key| *key != "name").cloned().collect()
}

/// Dotted keys and their values as text: `train.optimizer.lr`, `eval[0].attack`.
fn flat(recipe: &toml::Table) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (key, value) in recipe {
        flatten(key.clone(), value, &mut all);
    }
    all
}

fn flatten(key: String, value: &toml::Value, all: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (inner, value) in table {
                flatten(format!("{key}.{inner}"), value, all);
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            for (at, value) in items.iter().enumerate() {
                flatten(format!("{key}[{at}]"), value, all);
            }
        }
        toml::Value::String(text) => {
            all.insert(key, shortened(text));
        }
        other => {
            all.insert(key, shortened(&other.to_string()));
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(ROOM) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
