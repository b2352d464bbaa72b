//! What a node says of itself besides its operands.

use super::constant::Refusal;
use super::proto;

/// Attributes of a node.
pub(super) struct Attributes<'a>(pub(super) &'a proto::Node);

impl Attributes<'_> {
    pub(super) fn find(&self, name: &str) -> Option<&proto::Attribute> {
        self.0.attribute.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.find(name).and_then(|attribute| attribute.i).unwrap_or(default)
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.find(name).and_then(|attribute| attribute.f).unwrap_or(default)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.find(name).map(|attribute| attribute.ints.as_slice()).filter(|ints| !ints.is_empty())
    }

    /// The one number that all values of a list are.
    pub(super) fn same(&self, name: &str, default: usize) -> Result<usize, Refusal> {
        let Some(ints) = self.ints(name) else { return Ok(default) };
        let first =
            usize::try_from(ints[0]).ok().filter(|_| ints.iter().all(|int| *int == ints[0]));
        first.ok_or_else(|| format!("has {name} {ints:?}; all must be equal"))
    }

    /// Stride and padding of windows of `size`; `side` is the image's.
    pub(super) fn windows(&self, size: usize, side: [usize; 2]) -> Result<(usize, usize), Refusal> {
        if self.same("dilations", 1)? != 1 {
            return Err("is dilated".into());
        }
        let stride = self.same("strides", 1)?;
        let padding = match self.find("auto_pad").and_then(|a| a.s.as_deref()) {
            None | Some(b"NOTSET" | b"") => self.same("pads", 0)?,
            Some(b"VALID") => 0,
            Some(b"SAME_UPPER" | b"SAME_LOWER") if stride == 1 && size % 2 == 1 => size / 2,
            Some(_) => return Err("pads the image on one side more than on the other".into()),
        };
        if self.int("ceil_mode", 0) != 0 {
            let room =
                side.map(|side| side.saturating_add(padding.saturating_mul(2)).checked_sub(size));
            let whole = |room: &Option<usize>| room.is_none_or(|room| room % stride.max(1) == 0);
            if !room.iter().all(whole) {
                return Err("rounds the number of windows up".into());
            }
        }
        Ok((stride, padding))
    }
}
