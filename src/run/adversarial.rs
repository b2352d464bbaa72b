//! The images that attacks have made, as files.

use crate::attack::Outcome;
use crate::tensor::nhwc_to_nchw;
use crate::{Error, Result, npy};
use std::path::Path;

/// Writes into a folder, which is created:
///
/// - `adversarial.npy` `[N, C, H, W]`, pixels in [0, 1]: [`Outcome::adversarial`], inside eps where any attack of the list
///   searches inside eps; an image that was wrong already or never fell is stored as it was.
/// - `success.npy` `[N]`: 1 where an adversarial example was found.
/// - `distance.npy` `[N]`: how far the adversarial example is from the image, in the norm of the attack that found it.
/// - `nearest.npy` `[N, C, H, W]` and `nearest_distance.npy` `[N]`: [`Outcome::nearest`], at any distance, where the list holds
///   attacks of both kinds. Files of that name that an earlier run left are removed where it does not.
///
/// Errors: [`crate::ErrorKind::Io`] for a file that cannot be written.
pub fn save_adversarial(dir: &Path, [n, c, h, w]: [usize; 4], outcome: &Outcome) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|error| Error::io(dir, error))?;
    let images = |name: &str, pixels: &[f32]| {
        npy::write(&dir.join(name), &[n, c, h, w], &nhwc_to_nchw(pixels, [n, c, h, w]))
    };
    let success: Vec<u8> = outcome.found.iter().map(|&found| u8::from(found)).collect();
    images("adversarial.npy", &outcome.adversarial)?;
    npy::write(&dir.join("success.npy"), &[n], &success)?;
    npy::write(&dir.join("distance.npy"), &[n], &outcome.distance)?;
    if !outcome.nearest_distance.is_empty() {
        images("nearest.npy", &outcome.nearest)?;
        return npy::write(&dir.join("nearest_distance.npy"), &[n], &outcome.nearest_distance);
    }
    for name in ["nearest.npy", "nearest_distance.npy"] {
        let path = dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(path, error));
            }
            _ => {}
        }
    }
    Ok(())
}
