//! Noise on weights as a run has learnt it.

use crate::nn::{Model, Noise};
use crate::{Error, Result, Seed, io, train};
use std::path::Path;

/// Noise on the weights of `model` with the α in `path`, the `state.safetensors` of a run.
///
/// Errors: [`crate::ErrorKind::File`] where that run had no noise; those of [`Noise::new`].
pub fn learnt_noise(path: &Path, model: &Model, seed: Seed) -> Result<Noise> {
    let (state, _) = io::load_tensors(path, model.device())?;
    let alphas = train::learnt_alphas(state);
    if alphas.is_empty() {
        let want = "holds no α of noise; must be the checkpoints/state.safetensors of a run with train.weight_noise";
        return Err(Error::file(path, want));
    }
    Noise::new(model, alphas, seed)
}
