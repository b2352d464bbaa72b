//! Training images that are held out, to choose the best epoch without looking at the test images.

use rand::seq::SliceRandom;

use crate::error::{Error, Result};
use crate::rng::Seed;

use super::dataset::Dataset;
use super::split::{Pixels, Split};

impl Dataset {
    /// Moves `count` training images, chosen by `seed`, to [`Dataset::validation`]. Every class gives its share, to one
    /// image; both parts keep the order of the images.
    ///
    /// Errors: `Param` where `count` is 0 or leaves no training image; as [`Dataset::train`].
    pub fn hold_out(&mut self, count: usize, seed: Seed) -> Result<()> {
        let train = self.train()?;
        if !(1..train.len()).contains(&count) {
            let want = format!(
                "at least 1 and less than the {} training images of {}",
                train.len(),
                train.source.display()
            );
            return Err(Error::param("data.validation", count, want));
        }
        let held_out = &choose(train.labels()?, count, seed);
        let part = |held: bool| (0..train.len()).filter(move |&i| held_out[i] == held);
        let (rest, validation) = (train.pick(part(false)), train.pick(part(true)));
        (self.train, self.validation) = (Some(rest), Some(validation));
        Ok(())
    }
}

/// Whether each image is one of the `count`: in a random order, those that come first in their class, as a share of it.
fn choose(labels: &[i32], count: usize, seed: Seed) -> Vec<bool> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.shuffle(&mut seed.host("data.validation", 0));
    let mut sizes = std::collections::BTreeMap::new();
    labels.iter().for_each(|&label| *sizes.entry(label).or_insert(0u64) += 1);
    let mut seen = std::collections::BTreeMap::new();
    let mut shares: Vec<(f64, usize)> = Vec::with_capacity(order.len());
    for (i, &place) in order.iter().enumerate() {
        let rank = seen.entry(labels[place]).or_insert(0u64);
        shares.push(((*rank as f64 + 0.5) / sizes[&labels[place]] as f64, i));
        *rank += 1;
    }
    shares.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut held_out = vec![false; labels.len()];
    shares.iter().take(count).for_each(|&(_, i)| held_out[order[i]] = true);
    held_out
}

impl Split {
    /// The images at `places`, in that order.
    fn pick(&self, places: impl Iterator<Item = usize>) -> Self {
        let places: Vec<usize> = places.collect();
        let [_, c, h, w] = self.shape;
        let image = c * h * w;
        fn take<T: Copy>(from: &[T], places: &[usize], image: usize) -> Vec<T> {
            places.iter().flat_map(|&i| from[i * image..(i + 1) * image].iter().copied()).collect()
        }
        let pixels = match &self.pixels {
            Pixels::U8(pixels) => Pixels::U8(take(pixels, &places, image)),
            Pixels::F32(pixels) => Pixels::F32(take(pixels, &places, image)),
        };
        let labels = self.labels.as_ref().map(|labels| take(labels, &places, 1));
        Self { shape: [places.len(), c, h, w], pixels, labels, source: self.source.clone() }
    }
}
