//! One list of attacks under several values of a setting.

use crate::attack::{AttackSettings, Epsilon};
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
    /// Reads `eps=A,B,…`, `steps=A,B,…` or `restarts=A,B,…`. Also returns one list of attacks for each value: `settings` with
    /// the varied key set.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the flag, or the key of a value out of range.
    pub fn parse(
        text: &str,
        settings: &[AttackSettings],
    ) -> Result<(Self, Vec<Vec<AttackSettings>>)> {
        let wrong = || Error::param("--sweep", text, "eps, steps or restarts = values by commas");
        let (key, values) = text.split_once('=').ok_or_else(wrong)?;
        let values = values.split(',').map(|value| Epsilon::parse("--sweep", value));
        let values = values.collect::<Result<Vec<_>>>()?;
        let mut lists = Vec::new();
        for value in &values {
            let whole = value.exact() as usize;
            if key != "eps" && whole as f64 != value.exact() {
                return Err(Error::param("--sweep", value, "a whole number"));
            }
            let mut list = settings.to_vec();
            for settings in &mut list {
                match key {
                    "eps" => settings.eps = *value,
                    "steps" => settings.steps = Some(whole),
                    "restarts" => settings.restarts = whole,
                    _ => return Err(wrong()),
                }
                settings.check()?;
            }
            lists.push(list);
        }
        Ok((Self { key: key.into(), values, worst: Vec::new() }, lists))
    }
}
