//! Whether the first gradient of each image is of any use: one that is zero or not finite moves nothing.

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

    /// Notes the gradient of image `image`, unless one was noted before.
    pub(super) fn note(&self, image: usize, gradient: &[f32]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(image).or_insert_with(|| {
            gradient.iter().all(|g| g.is_finite()) && gradient.iter().any(|g| *g != 0.0)
        });
    }
}
