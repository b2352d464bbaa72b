//! Augmentation of training images: geometric maps that only say which pixel comes from where.
//!
//! Random numbers are Philox's, keyed by (seed, the augmentation's name, epoch) and indexed by the image's place in the
//! data set: the same for every batch size, order and number of threads, and after a resume.

use crate::error::{Error, Result};
use crate::rng::Seed;

/// Every augmentation that `data.augment` of a recipe knows. They are applied in the order of the list there.
pub const AUGMENTATIONS: &[Augmentation] = &[
    Augmentation {
        name: "pad-crop-4",
        summary: "4 zeros on each side, then a random crop of the old size",
        apply: |map, random| crop(map, random, Border::Zero),
        smallest: 1,
    },
    Augmentation {
        name: "pad-crop-4-reflect",
        summary: "4 reflected pixels on each side (the edge not repeated), then a random crop of the old size",
        apply: |map, random| crop(map, random, Border::Reflect),
        smallest: PAD + 1,
    },
    Augmentation {
        name: "flip",
        summary: "mirrored left to right with probability 1/2",
        apply: |map, random| {
            if random[0] >> 31 == 1 {
                map.columns.reverse();
            }
        },
        smallest: 1,
    },
];

const PAD: usize = 4;

/// A line of [`AUGMENTATIONS`].
#[derive(Debug, Clone, Copy)]
pub struct Augmentation {
    /// Its name in a recipe.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Changes the map by four uniform words.
    apply: fn(&mut Map, [u32; 4]),
    /// The least height and width of an image.
    smallest: usize,
}

impl Augmentation {
    /// The augmentations that `names` lists, for images of `height` × `width`.
    ///
    /// Errors: `Param` for an unknown name, one that stands twice, or images that are too small for it.
    pub fn parse(names: &[impl AsRef<str>], height: usize, width: usize) -> Result<Vec<Self>> {
        let key = "data.augment";
        let mut list: Vec<Self> = Vec::new();
        for name in names.iter().map(AsRef::as_ref) {
            let found = AUGMENTATIONS.iter().find(|a| a.name == name).ok_or_else(|| {
                let known: Vec<_> = AUGMENTATIONS.iter().map(|a| a.name).collect();
                Error::param(key, name, format!("one of {}", known.join(", ")))
            })?;
            if list.iter().any(|a| a.name == name) {
                return Err(Error::param(key, name, "listed once"));
            }
            if height.min(width) < found.smallest {
                let want = format!(
                    "for images of at least {0}×{0}, these are {height}×{width}",
                    found.smallest
                );
                return Err(Error::param(key, name, want));
            }
            list.push(*found);
        }
        Ok(list)
    }
}

/// Where the rows and columns of an augmented image come from; `None` is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    pub rows: Vec<Option<usize>>,
    pub columns: Vec<Option<usize>>,
}

impl Map {
    /// The map of `list`, in order, for image `index` in `epoch`.
    pub fn new(
        list: &[Augmentation],
        seed: Seed,
        epoch: u64,
        index: usize,
        (height, width): (usize, usize),
    ) -> Self {
        let mut map =
            Self { rows: (0..height).map(Some).collect(), columns: (0..width).map(Some).collect() };
        for augmentation in list {
            let stream = seed.stream(&format!("augment.{}", augmentation.name), epoch, 0);
            (augmentation.apply)(&mut map, stream.block(index as u32));
        }
        map
    }
}

#[derive(Clone, Copy)]
enum Border {
    Zero,
    Reflect,
}

/// Shifts rows and columns by -4..=4 each, uniformly.
fn crop(map: &mut Map, random: [u32; 4], border: Border) {
    let shift = |bits: u32| ((u64::from(bits) * (2 * PAD as u64 + 1)) >> 32) as usize;
    for (axis, bits) in [(&mut map.rows, random[0]), (&mut map.columns, random[1])] {
        let offset = shift(bits) as isize - PAD as isize;
        let last = axis.len() as isize - 1;
        *axis = (0..=last)
            .map(|i| {
                let from = i + offset;
                match border {
                    _ if (0..=last).contains(&from) => axis[from as usize],
                    Border::Zero => None,
                    // -1 is 1, -2 is 2, last + 1 is last - 1.
                    Border::Reflect => axis[(last - (last - from.abs()).abs()) as usize],
                }
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(border: Border, row_bits: u32) -> Vec<Option<usize>> {
        let mut map = Map { rows: (0..6).map(Some).collect(), columns: vec![Some(0); 6] };
        crop(&mut map, [row_bits, 0, 0, 0], border);
        map.rows
    }

    #[test]
    fn crop_takes_every_shift_and_borders_are_as_in_pytorch() {
        let (first, last) = (0, u32::MAX);
        assert_eq!(rows(Border::Zero, first), [None, None, None, None, Some(0), Some(1)]);
        assert_eq!(rows(Border::Zero, last), [Some(4), Some(5), None, None, None, None]);
        assert_eq!(rows(Border::Reflect, first), [4, 3, 2, 1, 0, 1].map(Some));
        assert_eq!(rows(Border::Reflect, last), [4, 5, 4, 3, 2, 1].map(Some));
    }
}
