//! Descriptions of networks: name, input, classes and width.

use super::normalization::Normalization;
use crate::{Error, Result};

/// An architecture of the registry as `--arch` writes it. What is `None` was left out, and comes from a file or a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct ArchSpec {
    /// Name in the registry of models.
    pub name: String,
    /// Channels of the input image.
    pub in_channels: Option<usize>,
    /// Number of logits.
    pub classes: Option<usize>,
    /// Multiplier of every channel count.
    pub width: Option<f64>,
    /// Every channel count is a multiple of this.
    pub divisor: Option<usize>,
    /// Height and width of the input image.
    pub size: Option<usize>,
}

/// The keys that [`ArchSpec::parse`] knows.
const KEYS: &str = "in_channels, classes, width, divisor or size";

impl ArchSpec {
    /// An architecture of which only the name is given.
    pub fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, in_channels: None, classes: None, width: None, divisor: None, size: None }
    }

    /// Reads `NAME[:key=value,…]` with the keys `in_channels`, `classes`, `width`, `divisor`, `size`.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the key.
    ///
    /// ```
    /// let spec = rewire::nn::ArchSpec::parse("vgg16:width=0.25,classes=100")?;
    /// assert_eq!((spec.width, spec.classes, spec.size), (Some(0.25), Some(100), None));
    /// # Ok::<(), rewire::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        let (name, keys) = text.split_once(':').unwrap_or((text, ""));
        let mut spec = Self::named(name);
        let mut given = std::collections::BTreeSet::new();
        for pair in keys.split(',').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Error::param("arch", text, "NAME:key=value,… such as vgg16:width=0.5"));
            };
            if !given.insert(key) {
                return Err(Error::param(format!("arch.{key}"), text, "given once"));
            }
            match key {
                "in_channels" => spec.in_channels = Some(count("arch.in_channels", value, 4096)?),
                "classes" => spec.classes = Some(classes(value)?),
                "size" => spec.size = Some(count("arch.size", value, 4096)?),
                "divisor" => spec.divisor = Some(count("arch.divisor", value, 4096)?),
                "width" => spec.width = Some(width(value)?),
                _ => return Err(Error::param("arch", key, KEYS)),
            }
        }
        Ok(spec)
    }

    /// Fills in what was left out from, for example, a data set's channels, classes and image size.
    pub fn or(
        mut self,
        in_channels: Option<usize>,
        classes: Option<usize>,
        size: Option<usize>,
    ) -> Self {
        self.in_channels = self.in_channels.or(in_channels);
        self.classes = self.classes.or(classes);
        self.size = self.size.or(size);
        self
    }

    /// Whether `arch` has every value that was given.
    pub fn fits(&self, arch: &Arch) -> bool {
        let same = |given: Option<usize>, value| given.is_none_or(|given| given == value);
        self.name == arch.name
            && same(self.in_channels, arch.in_channels)
            && same(self.classes, arch.classes)
            && same(self.size, arch.size)
            && same(self.divisor, arch.divisor)
            && self.width.is_none_or(|width| width == arch.width)
    }

    /// The complete architecture. What was left out becomes 3 channels, 10 classes, width 1, divisor 1 or 32 pixels.
    pub fn resolve(self) -> Arch {
        Arch {
            name: self.name,
            in_channels: self.in_channels.unwrap_or(3),
            classes: self.classes.unwrap_or(10),
            width: self.width.unwrap_or(1.0),
            divisor: self.divisor.unwrap_or(1),
            size: self.size.unwrap_or(32),
            normalize: None,
        }
    }
}

fn count(key: &str, value: &str, most: usize) -> Result<usize> {
    let parsed = value.parse().ok().filter(|n| (1..=most).contains(n));
    parsed.ok_or_else(|| Error::param(key, value, format!("a whole number from 1 to {most}")))
}

/// One logit says nothing: its softmax is 1 for every image.
fn classes(value: &str) -> Result<usize> {
    let parsed = value.parse().ok().filter(|n| (2..=100_000).contains(n));
    parsed.ok_or_else(|| {
        let want = "a whole number from 2 to 100000 (two classes have two logits; a network of one logit, as for a sigmoid, comes \
                    in by `rewire import` of its ONNX file)";
        Error::param("arch.classes", value, want)
    })
}

fn width(value: &str) -> Result<f64> {
    let parsed = value.parse().ok().filter(|w: &f64| *w > 0.0 && *w <= 16.0);
    parsed.ok_or_else(|| Error::param("arch.width", value, "a number above 0 and at most 16"))
}

/// What a network reads and answers, and, for one of the registry of models, how wide it is.
///
/// A network of your own has an [`Arch::custom`]; one of the registry an [`ArchSpec::resolve`].
#[derive(Debug, Clone, PartialEq)]
pub struct Arch {
    /// Name in the registry of models ([`crate::models::MODELS`]), or any other.
    pub name: String,
    /// Channels of the input image.
    pub in_channels: usize,
    /// Number of classes, which is the number of logits.
    pub classes: usize,
    /// Multiplier of every channel count of a network of the registry; 1 elsewhere.
    pub width: f64,
    /// What every channel count of a network of the registry is a multiple of; 1 elsewhere.
    pub divisor: usize,
    /// Height and width of the input image.
    pub size: usize,
    /// Normalisation of pixels, the network's first operation; `None` leaves pixels as they are.
    pub normalize: Option<Normalization>,
}

impl Arch {
    /// A network of your own, written with a [`Builder`](super::Builder): it reads images of `in_channels` channels and
    /// `size`×`size` pixels, which are not normalised, and tells `classes` classes apart.
    ///
    /// The name goes into files and reports. It must not contain `:` or `,`.
    pub fn custom(name: &str, in_channels: usize, classes: usize, size: usize) -> Self {
        let (name, width, divisor, normalize) = (name.to_owned(), 1.0, 1, None);
        Self { name, in_channels, classes, width, divisor, size, normalize }
    }

    /// The channel count at this width of a layer that has c channels at width 1: `max(1, round(width · c / divisor)) · divisor`.
    /// Halves are rounded up.
    pub fn channels(&self, c: usize) -> usize {
        let units = self.width * c as f64 / self.divisor as f64;
        ((units + 0.5).floor() as usize).max(1) * self.divisor
    }

    /// Checks what [`ArchSpec::parse`] would have refused, for a description that a file or a program gave.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the value.
    pub fn check(&self) -> Result<()> {
        if self.name.is_empty() || self.name.contains([':', ',']) {
            return Err(Error::param("name", &self.name, "not empty, without ':' and ','"));
        }
        count("in_channels", &self.in_channels.to_string(), 4096)?;
        classes(&self.classes.to_string())?;
        count("size", &self.size.to_string(), 4096)?;
        count("divisor", &self.divisor.to_string(), 4096)?;
        width(&self.width.to_string())?;
        self.normalize.as_ref().map_or(Ok(()), |n| n.check(self.in_channels))
    }
}

impl std::fmt::Display for Arch {
    /// As `--arch` reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, in_channels, classes, width, divisor, size, .. } = self;
        write!(f, "{name}:in_channels={in_channels},classes={classes},width={width},size={size}")?;
        if *divisor != 1 { write!(f, ",divisor={divisor}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_names_the_key_that_is_wrong() {
        for (text, word) in [
            ("vgg16:width=nan", "arch.width"),
            ("vgg16:width=-1", "arch.width"),
            ("vgg16:width=inf", "arch.width"),
            ("vgg16:classes=0", "arch.classes"),
            ("vgg16:size=1e3", "arch.size"),
            ("vgg16:in_channels=", "arch.in_channels"),
            ("vgg16:depth=3", "depth"),
            ("vgg16:width", "vgg16:width"),
            ("vgg16:width=1,size=64,width=2", "arch.width"),
            ("vgg16:classes=1", "two logits"),
        ] {
            let message = ArchSpec::parse(text).unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
    }

    #[test]
    fn width_rounds_half_up_and_keeps_one_channel() {
        let arch = ArchSpec::parse("vgg16:width=0.0390625").unwrap().resolve();
        assert_eq!([4, 64, 512].map(|c| arch.channels(c)), [1, 3, 20]);
    }

    #[test]
    fn channels_are_multiples_of_the_divisor() {
        let arch = ArchSpec::parse("vgg16:width=0.2816,divisor=8").unwrap().resolve();
        assert_eq!([8, 64, 128, 256, 512].map(|c| arch.channels(c)), [8, 16, 40, 72, 144]);
        assert!(ArchSpec::parse("vgg16:divisor=0").is_err());
    }

    #[test]
    fn display_is_read_back() {
        let arch = ArchSpec::parse("resnet18:width=0.3,classes=7,divisor=4").unwrap().resolve();
        assert_eq!(ArchSpec::parse(&arch.to_string()).unwrap().resolve(), arch);
    }
}
