//! Granularities, and masks at step 0.

use super::budget;
use crate::rng::Seed;
use rand::Rng;
use serde::{Deserialize, Serialize};

/// Among which weights ranks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Every layer keeps the same share.
    #[default]
    Layer,
    /// One ranking over the whole network; every layer keeps at least one unit.
    Global,
}

/// What is kept or dropped as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// One weight, `w[k, c, r, s]`.
    #[default]
    Irregular,
    /// One slice, `w[k, c, :, :]`.
    Kernel,
    /// What makes one output channel, `w[k, :, :, :]`.
    Filter,
    /// What reads one input channel, `w[:, c, :, :]`.
    Channel,
}

impl Granularity {
    /// Every granularity, from fine to coarse.
    pub const ALL: [Self; 4] = [Self::Irregular, Self::Kernel, Self::Filter, Self::Channel];

    /// As in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Irregular => "irregular",
            Self::Kernel => "kernel",
            Self::Filter => "filter",
            Self::Channel => "channel",
        }
    }

    /// Number of units of a weight `[K, R, S, C]` or `[K, C]`; all have equally many weights.
    pub fn units(self, shape: &[usize]) -> usize {
        let (k, c) = (shape[0], shape[shape.len() - 1]);
        match self {
            Self::Irregular => shape.iter().product(),
            Self::Kernel => k * c,
            Self::Filter => k,
            Self::Channel => c,
        }
    }

    /// The unit of every weight, in the order of the elements.
    pub fn unit_of(self, shape: &[usize]) -> impl Fn(usize) -> usize + use<> {
        let (k, c) = (shape[0], shape[shape.len() - 1]);
        let filter = shape.iter().product::<usize>() / k.max(1);
        move |i| match self {
            Self::Irregular => i,
            Self::Kernel => i / filter * c + i % c,
            Self::Filter => i / filter,
            Self::Channel => i % c,
        }
    }

    /// The mask of a weight whose active units are given.
    pub fn mask(self, shape: &[usize], active: &[bool]) -> Vec<u8> {
        let unit = self.unit_of(shape);
        (0..shape.iter().product()).map(|i| u8::from(active[unit(i)])).collect()
    }

    /// The units with at least one active weight.
    pub fn active_units(self, shape: &[usize], mask: &[u8]) -> Vec<bool> {
        let mut active = vec![false; self.units(shape)];
        let unit = self.unit_of(shape);
        mask.iter().enumerate().filter(|(_, m)| **m != 0).for_each(|(i, _)| active[unit(i)] = true);
        active
    }
}

impl std::str::FromStr for Granularity {
    type Err = crate::Error;

    fn from_str(name: &str) -> crate::Result<Self> {
        Self::ALL.into_iter().find(|g| g.name() == name).ok_or_else(|| {
            crate::Error::param("--granularity", name, "irregular, kernel, filter or channel")
        })
    }
}

/// How masks are drawn at random before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Draw {
    /// Exactly round(d·|l|) weights a layer, at least one in every filter as far as they reach: a filter
    /// that starts empty gets no gradient and never recovers.
    Covered,
    /// Exactly round(d·|l|) weights a layer, anywhere.
    Uniform,
    /// Every weight by itself with probability d; at least one a layer.
    Bernoulli,
}

impl Draw {
    /// Masks of all layers; each layer draws from a stream of its own.
    ///
    /// With a granularity coarser than a weight, `Covered` and `Uniform` draw round(d·units) whole units, at
    /// least one; `Bernoulli` draws weights all the same, and structure appears at the first rewiring.
    pub fn masks(
        self,
        shapes: &[Vec<usize>],
        granularity: Granularity,
        density: f64,
        seed: Seed,
    ) -> Vec<Vec<u8>> {
        let sizes: Vec<usize> = shapes.iter().map(|shape| shape.iter().product()).collect();
        let counts = budget::initial_weights(&sizes, density);
        let layers = shapes.iter().zip(counts).enumerate();
        let masks = layers.map(|(l, (shape, count))| {
            let rng = &mut seed.host("mask", l as u64);
            match (self, granularity) {
                (Self::Bernoulli, _) => bernoulli(shape, density, rng),
                (Self::Covered, Granularity::Irregular) => covered(shape, count, rng),
                (Self::Uniform, Granularity::Irregular) => {
                    ones(sizes[l], &sample(sizes[l], count, rng))
                }
                (_, _) => {
                    let units = granularity.units(shape);
                    let [count] = budget::initial_units(&[units], density)[..] else {
                        return Vec::new();
                    };
                    let mut active = vec![false; units];
                    sample(units, count, rng).into_iter().for_each(|unit| active[unit] = true);
                    granularity.mask(shape, &active)
                }
            }
        });
        masks.collect()
    }
}

/// Filters without an active weight.
pub fn empty_filters(shape: &[usize], mask: &[u8]) -> usize {
    Granularity::Filter.active_units(shape, mask).into_iter().filter(|active| !active).count()
}

fn bernoulli(shape: &[usize], density: f64, rng: &mut impl Rng) -> Vec<u8> {
    let len = shape.iter().product();
    let mut mask: Vec<u8> = (0..len).map(|_| u8::from(unit(rng) < density)).collect();
    if mask.iter().all(|&m| m == 0) {
        mask[below(len, rng)] = 1;
    }
    mask
}

/// One weight of every filter (of `count` random ones where there are fewer), the rest anywhere else.
fn covered(shape: &[usize], count: usize, rng: &mut impl Rng) -> Vec<u8> {
    let (len, filters) = (shape.iter().product::<usize>(), shape[0]);
    let each = len / filters;
    let first: Vec<usize> = sample(filters, count.min(filters), rng)
        .into_iter()
        .map(|filter| filter * each + below(each, rng))
        .collect();
    let mut mask = ones(len, &first);
    let open: Vec<usize> = (0..len).filter(|&i| mask[i] == 0).collect();
    for i in sample(open.len(), count - first.len(), rng) {
        mask[open[i]] = 1;
    }
    mask
}

fn ones(len: usize, at: &[usize]) -> Vec<u8> {
    let mut mask = vec![0; len];
    at.iter().for_each(|&i| mask[i] = 1);
    mask
}

/// `count` different numbers below `len`: the first steps of Fisher and Yates's shuffle.
fn sample(len: usize, count: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..len).collect();
    for i in 0..count {
        all.swap(i, i + below(len - i, rng));
    }
    all.truncate(count);
    all
}

/// A uniform number in 0..len. The bias of the multiplication is below len/2⁶⁴.
fn below(len: usize, rng: &mut impl Rng) -> usize {
    ((u128::from(rng.next_u64()) * len as u128) >> 64) as usize
}

/// A uniform number in [0, 1).
fn unit(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(mask: &[u8]) -> usize {
        mask.iter().map(|&m| usize::from(m)).sum()
    }

    #[test]
    fn units_partition_a_filter_tensor() {
        let shape = [2, 1, 2, 3];
        let of = |g: Granularity| (0..12).map(g.unit_of(&shape)).collect::<Vec<_>>();
        assert_eq!(of(Granularity::Kernel), [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        assert_eq!(of(Granularity::Filter), [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
        assert_eq!(of(Granularity::Channel), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
        for granularity in Granularity::ALL {
            let active: Vec<bool> = (0..granularity.units(&shape)).map(|u| u % 2 == 0).collect();
            let mask = granularity.mask(&shape, &active);
            assert_eq!(granularity.active_units(&shape, &mask), active);
        }
    }

    #[test]
    fn exact_draws_have_the_count_and_leave_no_filter_empty() {
        let shapes = vec![vec![64, 3, 3, 3], vec![64, 3, 3, 64]];
        let sizes = [1728, 36864];
        for (draw, empty) in [(Draw::Covered, false), (Draw::Uniform, true)] {
            let masks = draw.masks(&shapes, Granularity::Irregular, 0.05, Seed(3));
            for (mask, size) in masks.iter().zip(sizes) {
                assert_eq!(count(mask), budget::round_half_up(0.05 * size as f64));
            }
            assert_eq!(empty_filters(&shapes[0], &masks[0]) > 0, empty, "{draw:?}");
        }
        let masks = Draw::Bernoulli.masks(&shapes, Granularity::Channel, 0.5, Seed(3));
        assert!(count(&masks[1]).abs_diff(18432) < 600);
    }

    #[test]
    fn fewer_weights_than_filters_still_sum_up() {
        let masks = Draw::Covered.masks(
            &[vec![8, 3, 3, 1], vec![16, 3, 3, 16]],
            Granularity::Irregular,
            0.01,
            Seed(0),
        );
        assert_eq!(masks.iter().map(|mask| count(mask)).sum::<usize>(), 24);
        assert_eq!(count(&masks[0]), 1);
    }

    #[test]
    fn channel_draws_take_whole_channels() {
        let shape = vec![4, 3, 3, 6];
        let masks =
            Draw::Covered.masks(std::slice::from_ref(&shape), Granularity::Channel, 0.5, Seed(1));
        assert_eq!(count(&masks[0]), 3 * 36);
        let active = Granularity::Channel.active_units(&shape, &masks[0]);
        assert_eq!(Granularity::Channel.mask(&shape, &active), masks[0]);
    }
}
