//! What attacks share that keep their books image by image on the host.

use super::{Case, predictions};
use crate::{Device, Error, Result, Tensor};

impl Case<'_> {
    /// The pixels of all images, and how many one image has.
    pub(super) fn pixels(&self) -> Result<(Vec<f32>, usize)> {
        let pixels = self.x.to_vec::<f32>()?;
        let size = pixels.len() / self.images.len().max(1);
        Ok((pixels, size))
    }

    /// Whether an image is done once it is classified wrongly: training wants the worst point, not the first mistake,
    /// and one draw of noise proves nothing.
    pub(super) fn ends_when_wrong(&self) -> bool {
        self.split.is_some() && self.network.weights.noise.is_none()
    }

    /// The true classes.
    ///
    /// Errors: [`crate::ErrorKind::Param`] for a label that is no class of the network, and for a target: these
    /// attacks choose theirs.
    pub(super) fn true_classes(&self) -> Result<Vec<usize>> {
        if let Some(target) = self.settings.target {
            let want = format!("absent for {}", self.settings.attack);
            return Err(Error::param("target", target, want));
        }
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

    /// For every image the classes but its own, most likely first: at most `most`.
    pub(super) fn targets(&self, labels: &[usize], most: usize) -> Result<Vec<Vec<usize>>> {
        let logits = self.network.logits(self.x)?.to_vec::<f32>()?;
        let ranked = |(z, &label): (&[f32], &usize)| {
            let mut classes: Vec<usize> = (0..z.len()).filter(|&class| class != label).collect();
            classes.sort_by(|&a, &b| z[b].total_cmp(&z[a]));
            classes.truncate(most);
            classes
        };
        Ok(rows(&logits, labels.len()).zip(labels).map(ranked).collect())
    }
}

/// The logits of each of `count` images.
pub(super) fn rows(logits: &[f32], count: usize) -> impl Iterator<Item = &[f32]> {
    logits.chunks((logits.len() / count.max(1)).max(1))
}

/// Which images are classified wrongly, as the driver's recount will see it.
pub(super) fn wrong(logits: &[f32], labels: &[usize]) -> Result<Vec<bool>> {
    let shape = [labels.len(), logits.len() / labels.len().max(1)];
    let classes = predictions(&Tensor::from_vec(logits.to_vec(), &shape, &Device::Cpu)?)?;
    Ok(classes.into_iter().zip(labels).map(|(class, &label)| class != Some(label)).collect())
}
