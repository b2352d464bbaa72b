//! The images that attacks have made, as files.

use crate::attack::Outcome;
use crate::tensor::nhwc_to_nchw;
use crate::{Error, Result, npy};
use std::path::Path;

/// Writes three files into `dir`, which is created: `adversarial.npy` `[N, C, H, W]`, the images in pixel space;
/// `success.npy` `[N]`, 1 where an adversarial example was found; `distance.npy` `[N]`, its distance from the image.
pub fn save_adversarial(dir: &Path, [n, c, h, w]: [usize; 4], outcome: &Outcome) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|error| Error::io(dir, error))?;
    let images = nhwc_to_nchw(&outcome.adversarial, [n, c, h, w]);
    let success: Vec<u8> = outcome.found.iter().map(|&found| u8::from(found)).collect();
    npy::write(&dir.join("adversarial.npy"), &[n, c, h, w], &images)?;
    npy::write(&dir.join("success.npy"), &[n], &success)?;
    npy::write(&dir.join("distance.npy"), &[n], &outcome.distance)
}
