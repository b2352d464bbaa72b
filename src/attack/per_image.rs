//! What attacks share that keep their books image by image on the host.

use super::Case;
use crate::{Error, Result, Tensor};

impl Case<'_> {
    /// The pixels of all images, and how many one image has.
    pub(super) fn pixels(&self) -> Result<(Vec<f32>, usize)> {
        let pixels = self.x.to_vec::<f32>()?;
        let size = pixels.len() / self.images.len().max(1);
        Ok((pixels, size))
    }

    /// The true classes.
    ///
    /// Errors: [`crate::ErrorKind::Param`] for a label that is no class of the network.
    pub(super) fn true_classes(&self) -> Result<Vec<usize>> {
        let classes = self.network.model.arch().classes;
        let class = |label: i32| {
            let class = usize::try_from(label).ok().filter(|&class| class < classes);
            class.ok_or_else(|| Error::param("label", label, format!("in 0..{classes}")))
        };
        self.labels.to_vec::<i32>()?.into_iter().map(class).collect()
    }

    /// Images on the network's device, in the shape of [`Case::x`].
    pub(super) fn batch<'a>(&self, images: impl Iterator<Item = &'a [f32]>) -> Result<Tensor> {
        let values: Vec<f32> = images.flatten().copied().collect();
        let each = &self.x.shape()[1..];
        let count = values.len() / each.iter().product::<usize>().max(1);
        Tensor::from_vec(values, &[&[count], each].concat(), &self.x.device())
    }
}

/// The logits of each of `count` images.
pub(super) fn rows(logits: &[f32], count: usize) -> impl Iterator<Item = &[f32]> {
    logits.chunks((logits.len() / count.max(1)).max(1))
}
