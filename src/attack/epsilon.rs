//! The radius of an attack.

use crate::{Error, Result};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A distance between images with pixels in [0, 1]: finite, not negative. Reads `8/255` and `0.03`. That one in L∞ is at
/// most 1 is checked with the attack.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Epsilon(f64);

impl Epsilon {
    /// The radius nearest to a number.
    pub(super) const fn nearest(value: f64) -> Self {
        Self(value.clamp(0.0, MOST))
    }

    /// As the kernels take it.
    pub fn value(self) -> f32 {
        self.0 as f32
    }

    /// As it was given.
    pub fn exact(self) -> f64 {
        self.0
    }
}

/// More than any distance between two images; its square is finite as f32.
const MOST: f64 = 1e9;

const WANT: &str = "a number that is not negative, or a fraction such as 8/255";

impl TryFrom<f64> for Epsilon {
    type Error = Error;

    fn try_from(value: f64) -> Result<Self> {
        match (0.0..=MOST).contains(&value) {
            true => Ok(Self(value)),
            false => Err(Error::param("eps", value, WANT)),
        }
    }
}

impl FromStr for Epsilon {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse("eps", text)
    }
}

impl Epsilon {
    /// As [`FromStr`]; the error names `key`.
    pub fn parse(key: &str, text: &str) -> Result<Self> {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite());
        let value = match text.split_once('/') {
            None => number(text),
            Some((a, b)) => number(a).zip(number(b)).map(|(a, b)| a / b),
        };
        value
            .filter(|v| (0.0..=MOST).contains(v))
            .map(Self)
            .ok_or_else(|| Error::param(key, text, WANT))
    }
}

impl fmt::Display for Epsilon {
    /// `k/255` where it is one, else the shortest number that reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let k = (self.0 * 255.0).round();
        let fraction = k / 255.0 == self.0 && k > 0.0 && k < 255.0;
        if fraction { write!(f, "{k}/255") } else { write!(f, "{}", self.0) }
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
        for text in ["0", "0.031", "8/255", "1", "20"] {
            assert_eq!(text.parse::<Epsilon>().unwrap().to_string(), text);
        }
        for text in ["nan", "inf", "-1/255", "8/0", "0/0", "1e300", "", "8/255/2", "x"] {
            assert!(text.parse::<Epsilon>().is_err(), "{text}");
        }
    }
}
