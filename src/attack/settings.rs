//! What an attack may do: radius, steps, restarts.

use super::{Search, find};
use crate::{Error, Result};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// `train.adversary` and an entry of `[[eval]]`.
#[derive(Debug, Clone, PartialEq, Serialize, DeriveDeserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttackSettings {
    /// A name of [`super::ATTACKS`].
    pub attack: String,
    /// Radius of the L∞ ball; pixels in [0, 1].
    pub eps: Epsilon,
    /// Steps; the attack's own number where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Length of a step; where absent 2.5·eps/steps, in attacks without a ball the attack's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_size: Option<Epsilon>,
    /// Whether it starts at a random point of the ball.
    pub random_start: bool,
    /// Attempts at an image; those after the first are spent on images still classified correctly.
    pub restarts: usize,
    /// Searches for the weight of the loss (`cw-l2`, `zoo`); the attack's own number where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary_search_steps: Option<usize>,
    /// What the published program does where it is weaker than it could be (`cw-l2`, `bb-l0`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub faithful: bool,
    /// Steps between halvings of the trust region (`bb-l0`); steps/30 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_interval: Option<usize>,
}

impl Default for AttackSettings {
    fn default() -> Self {
        Self {
            attack: "pgd".into(),
            eps: Epsilon(8.0 / 255.0),
            steps: None,
            step_size: None,
            random_start: true,
            restarts: 1,
            binary_search_steps: None,
            faithful: false,
            decay_interval: None,
        }
    }
}

impl AttackSettings {
    /// The number of steps.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or_else(|| find(&self.attack).map_or(1, |entry| entry.steps))
    }

    /// The length of a step.
    pub fn step_size(&self) -> f32 {
        let default = 2.5 * self.eps.0 / self.steps().max(1) as f64;
        self.step_size.map_or(default as f32, Epsilon::value)
    }

    /// The settings with every default written out; an attack of one step has one step of eps from x.
    ///
    /// Errors: [`crate::ErrorKind::Param`] for an unknown attack.
    pub fn resolved(&self) -> Result<Self> {
        let (attack, eps) = (self.attack.clone(), self.eps);
        if find(&attack)?.search == Search::OneStep {
            let step_size = Some(eps);
            let steps = Some(1);
            let random_start = false;
            return Ok(Self { attack, eps, steps, step_size, random_start, ..Self::default() });
        }
        if find(&attack)?.search == Search::Nearest {
            return Ok(Self { steps: Some(self.steps()), ..self.clone() });
        }
        let default = Epsilon(2.5 * self.eps.0 / self.steps().max(1) as f64);
        let step_size = Some(self.step_size.unwrap_or(default));
        Ok(Self { steps: Some(self.steps()), step_size, ..self.clone() })
    }

    /// Checks name and counts.
    ///
    /// Errors: [`crate::ErrorKind::Param`].
    pub fn check(&self) -> Result<()> {
        find(&self.attack)?;
        if self.steps() > 1_000_000 {
            return Err(Error::param("steps", self.steps(), "at most 1000000"));
        }
        if !(1..=1_000_000).contains(&self.restarts) {
            return Err(Error::param("restarts", self.restarts, "1 to 1000000"));
        }
        let counts = [
            ("binary_search_steps", self.binary_search_steps, 100),
            ("decay_interval", self.decay_interval, 1_000_000),
        ];
        for (key, count, most) in counts {
            if let Some(count) = count.filter(|count| !(1..=most).contains(count)) {
                return Err(Error::param(key, count, format!("1 to {most}")));
            }
        }
        Ok(())
    }
}

/// A distance between pixels in [0, 1]: finite, from 0 to 1. Reads `8/255` and `0.03`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Epsilon(f64);

impl Epsilon {
    /// As the kernels take it.
    pub fn value(self) -> f32 {
        self.0 as f32
    }

    /// As it was given.
    pub fn exact(self) -> f64 {
        self.0
    }
}

const WANT: &str = "a number from 0 to 1, or a fraction such as 8/255";

impl TryFrom<f64> for Epsilon {
    type Error = Error;

    fn try_from(value: f64) -> Result<Self> {
        match value {
            0.0..=1.0 => Ok(Self(value)),
            _ => Err(Error::param("eps", value, WANT)),
        }
    }
}

impl FromStr for Epsilon {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite());
        let value = match text.split_once('/') {
            None => number(text),
            Some((a, b)) => number(a).zip(number(b)).map(|(a, b)| a / b),
        };
        value
            .filter(|v| (0.0..=1.0).contains(v))
            .map(Self)
            .ok_or_else(|| Error::param("eps", text, WANT))
    }
}

impl fmt::Display for Epsilon {
    /// `k/255` where it is one, else the shortest number that reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let k = (self.0 * 255.0).round();
        if k / 255.0 == self.0 && k > 0.0 { write!(f, "{k}/255") } else { write!(f, "{}", self.0) }
    }
}

impl Serialize for Epsilon {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let text = self.to_string();
        if text.contains('/') {
            serializer.serialize_str(&text)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Epsilon {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Epsilon;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(WANT)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Epsilon, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> std::result::Result<Epsilon, E> {
                Epsilon::try_from(value)
                    .map_err(|_| E::invalid_value(de::Unexpected::Float(value), &self))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<Epsilon, E> {
                self.visit_f64(value as f64)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<Epsilon, E> {
                self.visit_f64(value as f64)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eps_reads_fractions_and_refuses_what_is_no_radius() {
        assert_eq!("8/255".parse::<Epsilon>().unwrap().value(), (8.0 / 255.0) as f32);
        assert_eq!("0".parse::<Epsilon>().unwrap().to_string(), "0");
        assert_eq!("0.031".parse::<Epsilon>().unwrap().to_string(), "0.031");
        assert_eq!("8/255".parse::<Epsilon>().unwrap().to_string(), "8/255");
        for text in ["nan", "inf", "-1/255", "8/0", "0/0", "2", "", "8/255/2", "x"] {
            assert!(text.parse::<Epsilon>().is_err(), "{text}");
        }
    }

    #[test]
    fn settings_survive_toml() {
        for text in ["eps = \"4/255\"\nstep_size = 0.01", "eps = 0.25", "eps = 0"] {
            let settings: AttackSettings = toml::from_str(text).unwrap();
            let resolved = settings.resolved().unwrap();
            let written = toml::to_string(&resolved).unwrap();
            assert_eq!(toml::from_str::<AttackSettings>(&written).unwrap(), resolved);
        }
        for text in ["eps = -0.1", "eps = nan", "eps = \"x\"", "stepsize = 1", "steps = -1"] {
            assert!(toml::from_str::<AttackSettings>(text).is_err(), "{text}");
        }
    }
}
