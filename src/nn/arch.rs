//! What identifies a network: architecture, widths, input and classes.

use super::normalization::Normalization;
use crate::{Error, Result};

/// An architecture as `--arch` names it; what is left out comes from a file or a data set.
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
    /// What every channel count is a multiple of.
    pub divisor: Option<usize>,
    /// Height and width of the input image.
    pub size: Option<usize>,
}

/// The keys that [`ArchSpec::parse`] knows.
const KEYS: &str = "in_channels, classes, width, divisor or size";

impl ArchSpec {
    /// An architecture with nothing but its name given.
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

    /// Fills in what was left out and is given here: a data set's channels, classes and image size, say.
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

    /// Whether everything that is given here is so in `arch`.
    pub fn fits(&self, arch: &Arch) -> bool {
        let same = |given: Option<usize>, value| given.is_none_or(|given| given == value);
        self.name == arch.name
            && same(self.in_channels, arch.in_channels)
            && same(self.classes, arch.classes)
            && same(self.size, arch.size)
            && same(self.divisor, arch.divisor)
            && self.width.is_none_or(|width| width == arch.width)
    }

    /// The architecture with what was left out filled in: 3 channels, 10 classes, width 1, divisor 1, 32 pixels.
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

/// A complete description of an unpruned network.
#[derive(Debug, Clone, PartialEq)]
pub struct Arch {
    /// Name in the registry of models.
    pub name: String,
    /// Channels of the input image.
    pub in_channels: usize,
    /// Number of logits.
    pub classes: usize,
    /// Multiplier of every channel count.
    pub width: f64,
    /// What every channel count is a multiple of.
    pub divisor: usize,
    /// Height and width of the input image.
    pub size: usize,
    /// The first layer; `None` leaves pixels as they are.
    pub normalize: Option<Normalization>,
}

impl Arch {
    /// A channel count of the architecture at this width: `max(1, round(width · c / divisor)) · divisor`, half up.
    pub fn channels(&self, c: usize) -> usize {
        let units = self.width * c as f64 / self.divisor as f64;
        ((units + 0.5).floor() as usize).max(1) * self.divisor
    }

    /// Checks what [`ArchSpec::parse`] would have refused, for a description that a file gave.
    pub fn check(&self) -> Result<()> {
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
