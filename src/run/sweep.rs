//! One list of attacks under several values of a setting.

use crate::attack::{AttackSettings, Epsilon, read_by};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The setting that is varied, and the accuracy at each of its values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// `eps`, `steps` or `restarts`.
    pub key: String,
    /// The values, in the order of the rows.
    pub values: Vec<Epsilon>,
    /// Accuracy in percent under all attacks, for each value.
    pub worst: Vec<f64>,
}

impl Sweep {
    /// Reads `eps=A,B,…`, `steps=A,B,…` or `restarts=A,B,…`. Returns with it one list of attacks for each value: `settings`
    /// with that value in every attack that reads the key.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the flag, also where no attack reads the key, or the key of a value
    /// out of range.
    pub fn parse(
        text: &str,
        settings: &[AttackSettings],
    ) -> Result<(Self, Vec<Vec<AttackSettings>>)> {
        let wrong = || Error::param("--sweep", text, "eps=A,B,…, steps=A,B,… or restarts=A,B,…");
        let (key, values) = text.split_once('=').ok_or_else(wrong)?;
        let values = values.split(',').map(|value| Epsilon::parse("--sweep", value));
        let values = values.collect::<Result<Vec<_>>>()?;
        let read = settings.iter().map(|one| one.reads(key)).collect::<Result<Vec<bool>>>()?;
        if !["eps", "steps", "restarts"].contains(&key) {
            return Err(wrong());
        }
        if !read.contains(&true) {
            let names: Vec<&str> = settings.iter().map(|one| one.attack.as_str()).collect();
            let want = format!("another key for {}: {}", names.join(", "), read_by(key));
            return Err(Error::param("--sweep", key, want));
        }
        let mut lists = Vec::new();
        for value in &values {
            let whole = value.exact() as usize;
            if key != "eps" && whole as f64 != value.exact() {
                return Err(Error::param("--sweep", value, format!("a whole number for {key}")));
            }
            let mut list = settings.to_vec();
            for (settings, _) in list.iter_mut().zip(&read).filter(|(_, read)| **read) {
                match key {
                    "eps" => settings.eps = *value,
                    "steps" => settings.steps = Some(whole),
                    _ => settings.restarts = whole,
                }
                settings.check()?;
            }
            lists.push(list);
        }
        Ok((Self { key: key.into(), values, worst: Vec::new() }, lists))
    }
}
