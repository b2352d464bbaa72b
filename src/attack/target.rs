//! The class that a targeted attack drives an image to.

use crate::{Error, Result};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A rule that gives every image its target. Whether the image reaches it does not matter to the count: it falls as soon
/// as it is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The class after its own, the first after the last.
    Next,
    /// The class of the smallest logit of the image as it is, its own left out.
    LeastLikely,
    /// Another class, drawn for each image and restart.
    Random,
    /// This one. An image of the class itself has no target and is left as it is.
    Class(usize),
}

const WANT: &str = "next, least-likely, random or the number of a class";

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "next" => Ok(Self::Next),
            "least-likely" => Ok(Self::LeastLikely),
            "random" => Ok(Self::Random),
            _ => text.parse().map(Self::Class).map_err(|_| Error::param("target", text, WANT)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Next => f.write_str("next"),
            Self::LeastLikely => f.write_str("least-likely"),
            Self::Random => f.write_str("random"),
            Self::Class(class) => write!(f, "{class}"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Class(class) => serializer.serialize_u64(*class as u64),
            rule => serializer.serialize_str(&rule.to_string()),
        }
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Target;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(WANT)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Target, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_u64<E: de::Error>(self, class: u64) -> std::result::Result<Target, E> {
                Ok(Target::Class(class as usize))
            }

            fn visit_i64<E: de::Error>(self, class: i64) -> std::result::Result<Target, E> {
                let number = usize::try_from(class);
                number
                    .map(Target::Class)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(class), &self))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}
