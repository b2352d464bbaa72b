//! Batches of a split: order, augmentation and layout.

use rand::seq::SliceRandom;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::rng::Seed;

use super::augment::{Augmentation, Map};
use super::split::{Pixels, Split, unit};

/// Some images, ready for the device.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// [n, H, W, C] in [0, 1].
    pub images: Vec<f32>,
    /// n class numbers; empty if the split has no labels.
    pub labels: Vec<i32>,
    /// The place of each image in its split.
    pub index: Vec<usize>,
}

impl Batch {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True for a batch of no image; a loader never hands one out.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

/// Hands out a split in batches. Every batch is a pure function of (seed, epoch, step), on any number of threads.
#[derive(Debug, Clone)]
pub struct Loader<'a> {
    split: &'a Split,
    batch_size: usize,
    order: Option<Seed>,
    augment: (Seed, Vec<Augmentation>),
}

impl<'a> Loader<'a> {
    /// Batches in the order of the split, the images as they are: what a test wants.
    ///
    /// Errors: `Param` when `batch_size` is 0.
    pub fn new(split: &'a Split, batch_size: usize) -> Result<Self> {
        if batch_size == 0 {
            return Err(Error::param("batch_size", 0, "at least 1"));
        }
        Ok(Self { split, batch_size, order: None, augment: (Seed(0), Vec::new()) })
    }

    /// Takes a new random order in every epoch.
    pub fn shuffle(mut self, seed: Seed) -> Self {
        self.order = Some(seed);
        self
    }

    /// Applies the named augmentations to every image, in the order of the list.
    ///
    /// Errors: those of [`Augmentation::parse`].
    pub fn augment(mut self, seed: Seed, names: &[impl AsRef<str>]) -> Result<Self> {
        let [_, _, height, width] = self.split.shape;
        self.augment = (seed, Augmentation::parse(names, height, width)?);
        Ok(self)
    }

    /// Batches in an epoch; the last one may be smaller.
    pub fn steps(&self) -> usize {
        self.split.len().div_ceil(self.batch_size)
    }

    /// The batches of epoch `epoch`.
    pub fn epoch(&self, epoch: u64) -> Epoch<'_> {
        let mut order: Vec<usize> = (0..self.split.len()).collect();
        if let Some(seed) = self.order {
            order.shuffle(&mut seed.host("data.shuffle", epoch));
        }
        Epoch { loader: self, epoch, order }
    }
}

/// One pass over a split, with random access, so that a run goes on in the middle of it.
#[derive(Debug, Clone)]
pub struct Epoch<'a> {
    loader: &'a Loader<'a>,
    epoch: u64,
    order: Vec<usize>,
}

impl Epoch<'_> {
    /// Batch `step` of the epoch; `None` after the last.
    pub fn batch(&self, step: usize) -> Option<Batch> {
        let size = self.loader.batch_size;
        let index = self.order.chunks(size).nth(step)?.to_vec();
        let split = self.loader.split;
        let [_, channels, height, width] = split.shape;
        let mut images = vec![0.0; index.len() * channels * height * width];
        let (seed, augment) = &self.loader.augment;
        images.par_chunks_exact_mut(channels * height * width).zip(&index).for_each(|(to, &i)| {
            let map = Map::new(augment, *seed, self.epoch, i, (height, width));
            gather(to, split, i, &map);
        });
        let labels = split.labels.as_ref();
        let labels = labels.map_or(Vec::new(), |labels| index.iter().map(|&i| labels[i]).collect());
        Some(Batch { images, labels, index })
    }

    /// All batches in order.
    pub fn batches(&self) -> impl Iterator<Item = Batch> + '_ {
        (0..self.loader.steps()).map_while(|step| self.batch(step))
    }
}

/// Writes image `i` of `split` to `to` [H, W, C], each pixel from where `map` says.
fn gather(to: &mut [f32], split: &Split, i: usize, map: &Map) {
    let [_, channels, height, width] = split.shape;
    let plane = height * width;
    let start = i * channels * plane;
    let value = |at: usize| match &split.pixels {
        Pixels::U8(pixels) => unit(pixels[at]),
        Pixels::F32(pixels) => pixels[at],
    };
    for (row, &y) in to.chunks_exact_mut(width * channels).zip(&map.rows) {
        for (pixel, &x) in row.chunks_exact_mut(channels).zip(&map.columns) {
            match (y, x) {
                (Some(y), Some(x)) => {
                    let at = start + y * width + x;
                    pixel.iter_mut().enumerate().for_each(|(c, v)| *v = value(at + c * plane));
                }
                _ => pixel.fill(0.0),
            }
        }
    }
}
