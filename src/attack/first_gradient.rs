//! Whether the first gradient of each image is of any use: one that is zero or not finite moves nothing.

use super::Case;
use crate::{Result, Tensor};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What an evaluation learns of the gradients that an attack starts with. A training has none: attacks then skip the look.
#[derive(Default)]
pub struct FirstGradients(Mutex<BTreeMap<usize, bool>>);

impl FirstGradients {
    /// Whether the first gradient of image `image` of the split was finite and not zero; `None` where the attack took none.
    pub(super) fn usable(&self, image: usize) -> Option<bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&image).copied()
    }
}

impl Case<'_> {
    /// Notes the gradients of all images at their starts.
    pub(super) fn note_gradients(&self, gradient: &Tensor) -> Result<()> {
        if self.first_gradients.is_some() {
            let gradient = gradient.to_vec::<f32>()?;
            let size = gradient.len() / self.images.len().max(1);
            gradient.chunks(size.max(1)).enumerate().for_each(|(i, g)| self.note_gradient(i, g));
        }
        Ok(())
    }

    /// Notes the gradient of the `i`-th image of the case, unless one was noted before.
    pub(super) fn note_gradient(&self, i: usize, gradient: &[f32]) {
        if let Some(FirstGradients(all)) = self.first_gradients {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(self.images[i]).or_insert_with(|| {
                gradient.iter().all(|g| g.is_finite()) && gradient.iter().any(|g| *g != 0.0)
            });
        }
    }
}
