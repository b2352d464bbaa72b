//! What differs between two recipes.

use super::recipe::Recipe;
use crate::{Error, Result};
use std::collections::BTreeMap;
use toml::Value;

/// The keys whose values differ, each as one text: `train.optimizer.lr: 0.05 then, 0.001 now`.
///
/// Errors: those of [`Recipe::text`].
pub(super) fn differences(then: &Recipe, now: &Recipe) -> Result<Vec<String>> {
    let (then, now) = (values(then)?, values(now)?);
    let mut keys: Vec<&String> = then.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    let differs = keys.into_iter().filter(|key| then.get(*key) != now.get(*key));
    let text = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
    let describe =
        |key: &String| format!("{key}: {} then, {} now", text(then.get(key)), text(now.get(key)));
    Ok(differs.map(describe).collect())
}

/// Every value by its dotted key; the tables of an array by their place, from 1.
fn values(recipe: &Recipe) -> Result<BTreeMap<String, Value>> {
    let table: toml::Table = recipe
        .text()?
        .parse()
        .map_err(|error: toml::de::Error| Error::param("recipe", error, "a TOML table"))?;
    let mut found = BTreeMap::new();
    collect(&mut found, String::new(), Value::Table(table));
    Ok(found)
}

fn collect(found: &mut BTreeMap<String, Value>, key: String, value: Value) {
    let below = |name: &str| match key.is_empty() {
        true => name.to_owned(),
        false => format!("{key}.{name}"),
    };
    match value {
        Value::Table(table) => {
            table.into_iter().for_each(|(name, value)| collect(found, below(&name), value));
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for (i, item) in items.into_iter().enumerate() {
                collect(found, format!("{key}[{}]", i + 1), item);
            }
        }
        value => _ = found.insert(key, value),
    }
}
