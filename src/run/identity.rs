//! What the finished batches in a folder belong to.

use super::attack_job::AttackJob;
use super::attacked::Attacked;
use crate::attack::AttackSettings;
use crate::data::Split;
use crate::{Result, file};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The content of `attack.json`: everything that the results of a job depend on, with the SHA-256 of files and images.
#[derive(Serialize)]
pub struct Identity<'a> {
    result: &'a Attacked,
    device: String,
    model: String,
    /// With the normalisation, which flags can set.
    arch: String,
    images: String,
    source: Option<String>,
    noise: Option<String>,
    lists: &'a [Vec<AttackSettings>],
    images_kept: bool,
}

/// The files that the networks of a job were read from.
pub struct JobFiles<'a> {
    /// The attacked network.
    pub model: &'a Path,
    /// The network that `transfer` takes its gradients from.
    pub source: Option<&'a Path>,
    /// The noise on the weights, where it was read from a file.
    pub noise: Option<&'a Path>,
}

impl<'a> Identity<'a> {
    /// The identity of `job`, whose settings are in `result`. `images_kept` says whether adversarial examples are stored with
    /// each batch.
    ///
    /// Errors: [`crate::ErrorKind::Io`] for a file that cannot be read.
    pub fn new(
        job: &AttackJob<'a>,
        result: &'a Attacked,
        files: &JobFiles,
        images_kept: bool,
    ) -> Result<Self> {
        let model = job.network.model;
        Ok(Self {
            result,
            device: model.device().to_string(),
            model: digest(files.model)?,
            arch: format!("{:?}", model.arch()),
            images: images_digest(job.split)?,
            source: files.source.map(digest).transpose()?,
            noise: files.noise.map(digest).transpose()?,
            lists: job.lists,
            images_kept,
        })
    }
}

/// Of a file.
fn digest(path: &Path) -> Result<String> {
    Ok(hexadecimal(&Sha256::digest(file::read(path)?)))
}

/// Of pixels and labels.
fn images_digest(split: &Split) -> Result<String> {
    let mut sha = Sha256::new();
    for image in 0..split.len() {
        sha.update(bytemuck::cast_slice(&split.images_nchw(image..image + 1)));
    }
    sha.update(bytemuck::cast_slice(split.labels()?));
    Ok(hexadecimal(&sha.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
