//! The class that a targeted attack drives an image to.

use super::{Case, Network};
use crate::{Error, Result, Tensor};
use rand::RngExt;
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

/// What the cross-entropy is taken of, and which way steps go: up for true labels, down for targets.
pub(super) struct Aim {
    /// `[N]`.
    pub labels: Tensor,
    /// 1 or −1.
    pub sign: f32,
}

/// Where the images of `case` are driven, by the logits of `network`.
///
/// Errors: [`crate::ErrorKind::Param`] for a target that is no class of the network.
pub(super) fn aim(case: &Case, network: &Network) -> Result<Aim> {
    let Some(target) = case.settings.target else {
        return Ok(Aim { labels: case.labels.clone(), sign: 1.0 });
    };
    let classes = network.model.arch().classes;
    if let Target::Class(class) = target
        && class >= classes
    {
        return Err(Error::param("target", class, format!("below {classes}")));
    }
    if classes < 2 {
        return Err(Error::param("target", target, "absent where there is one class"));
    }
    let mut labels = case.labels.to_vec::<i32>()?;
    let logits = match target {
        Target::LeastLikely => network.logits(case.x)?.to_vec::<f32>()?,
        _ => Vec::new(),
    };
    for (i, label) in labels.iter_mut().enumerate() {
        let own = *label as usize;
        let class = match target {
            Target::Next => (own + 1) % classes,
            Target::Class(class) => class,
            Target::Random => {
                let other = case.draws.host(case.images[i]).random_range(0..classes - 1);
                other + usize::from(other >= own)
            }
            Target::LeastLikely => {
                let row = &logits[i * classes..][..classes];
                let others = (0..classes).filter(|&class| class != own);
                others.reduce(|a, b| if row[b] < row[a] { b } else { a }).unwrap_or(own)
            }
        };
        *label = class as i32;
    }
    let labels = Tensor::from_vec(labels, case.labels.shape(), &case.labels.device())?;
    Ok(Aim { labels, sign: -1.0 })
}
