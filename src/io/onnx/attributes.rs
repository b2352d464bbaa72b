//! What a node says of itself besides its operands.

use super::constant::Refusal;
use super::proto;
use crate::ops::Window;

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
        first.ok_or_else(|| format!("{name} {ints:?} differ; only equal {name} are supported"))
    }

    /// Stride and padding of a convolution with windows of `r`×`s` pixels.
    pub(super) fn convolution(&self, r: usize, s: usize) -> Result<(usize, usize), Refusal> {
        let groups = self.int("group", 1);
        if groups != 1 {
            return Err(format!(
                "{groups} groups; depthwise and other grouped convolutions are not supported"
            ));
        }
        if let Some(shape) = self.ints("kernel_shape").filter(|k| **k != [r as i64, s as i64]) {
            return Err(format!("kernel_shape {shape:?} is not that of the weight, [{r}, {s}]"));
        }
        let same = self.find("auto_pad").and_then(|a| a.s.as_deref());
        if r != s && same.is_some_and(|same| same.starts_with(b"SAME")) {
            return Err("auto_pad with a window that is not square is not supported".into());
        }
        self.windows(r, None)
    }

    /// The windows of a pooling; `side` is the image's where that is known.
    pub(super) fn pooling(&self, side: Option<[usize; 2]>) -> Result<Window, Refusal> {
        let size = self.same("kernel_shape", 0)?;
        let (stride, padding) = self.windows(size, side)?;
        let average = self.0.op_type == "AveragePool";
        if average && padding > 0 && self.int("count_include_pad", 0) == 0 {
            return Err(
                "the padding is left out of the means; only count_include_pad=1 is supported"
                    .into(),
            );
        }
        Ok(Window { padding, stride, size })
    }

    /// Whether a Gemm is a plain product.
    pub(super) fn product(&self, bias: bool) -> Result<(), Refusal> {
        let (alpha, beta) = (self.float("alpha", 1.0), self.float("beta", 1.0));
        if alpha != 1.0 || (bias && beta != 1.0) {
            return Err(format!(
                "alpha {alpha} and beta {beta}; only products with alpha 1 and beta 1 are supported"
            ));
        }
        match self.int("transA", 0) {
            0 => Ok(()),
            _ => Err("transA=1 is not supported".into()),
        }
    }

    /// Whether a batch normalisation uses its stored statistics.
    pub(super) fn not_training(&self) -> Result<(), Refusal> {
        let more = self.0.output[1..].iter().any(|name| !name.is_empty());
        match self.int("training_mode", 0) != 0 || more {
            true => Err("it is in training mode; export the network behind model.eval()".into()),
            false => Ok(()),
        }
    }

    /// Stride and padding of windows of `size`.
    fn windows(&self, size: usize, side: Option<[usize; 2]>) -> Result<(usize, usize), Refusal> {
        let dilation = self.same("dilations", 1)?;
        if dilation != 1 {
            return Err(format!("dilation {dilation}; only a dilation of 1 is supported"));
        }
        let stride = self.same("strides", 1)?;
        let padding = match self.find("auto_pad").and_then(|a| a.s.as_deref()) {
            None | Some(b"NOTSET" | b"") => self.same("pads", 0)?,
            Some(b"VALID") => 0,
            Some(b"SAME_UPPER" | b"SAME_LOWER") if stride == 1 && size % 2 == 1 => size / 2,
            Some(_) => return Err("auto_pad pads one side of the image more than the other; only equal padding is supported".into()),
        };
        if let (1.., Some(side)) = (self.int("ceil_mode", 0), side) {
            let room =
                side.map(|side| side.saturating_add(padding.saturating_mul(2)).checked_sub(size));
            let whole = |room: &Option<usize>| room.is_none_or(|room| room % stride.max(1) == 0);
            if !room.iter().all(whole) {
                return Err("ceil_mode=1 adds windows that hang over the edge of the image; only ceil_mode=0 is supported".into());
            }
        }
        Ok((stride, padding))
    }
}
