//! Counter-based random numbers: Philox4x32-10.
//!
//! A number is a pure function of (seed, stream name, step, layer, index): the same on every device,
//! on any number of threads, after a resume, and again in a backward pass.
//! `kernels/common/philox.cuh` is the same arithmetic.
//!
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

/// The seed of a run. Every use of randomness takes its own named stream of it, so that switching one
/// feature off does not change the numbers of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The stream `name` at `step`, for the layer (or other sub-stream) `layer`.
    pub fn stream(self, name: &str, step: u64, layer: u32) -> Philox {
        let key = self.key(name);
        Philox { key: [key as u32, (key >> 32) as u32], step, layer }
    }

    /// A sequential host generator for shuffles, keyed like [`Seed::stream`].
    pub fn host(self, name: &str, step: u64) -> ChaCha8Rng {
        let mut bytes = [0u8; 32];
        bytes[..8].copy_from_slice(&self.key(name).to_le_bytes());
        bytes[8..16].copy_from_slice(&step.to_le_bytes());
        ChaCha8Rng::from_seed(bytes)
    }

    /// 64-bit FNV-1a of the name, mixed with the seed by the finaliser of SplitMix64.
    fn key(self, name: &str) -> u64 {
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        let mut z = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ name;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// One stream of Philox4x32-10 numbers, indexed by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Philox {
    /// The key, in the order the rounds use it.
    pub key: [u32; 2],
    /// Counter words 2 and 3.
    pub step: u64,
    /// Counter word 1.
    pub layer: u32,
}

impl Philox {
    /// Numbers `4·block .. 4·block + 4`.
    pub fn block(&self, block: u32) -> [u32; 4] {
        philox4x32_10([block, self.layer, self.step as u32, (self.step >> 32) as u32], self.key)
    }

    /// Number `index` as 32 uniform bits.
    pub fn bits(&self, index: usize) -> u32 {
        self.block((index / 4) as u32)[index % 4]
    }

    /// Number `index` as a uniform f32 in [0, 1): the upper 24 bits times 2⁻²⁴.
    pub fn uniform(&self, index: usize) -> f32 {
        unit(self.bits(index))
    }
}

/// The upper 24 bits of `bits` times 2⁻²⁴: exact, in [0, 1).
pub fn unit(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// The generator itself: ten rounds over a 128-bit counter with a 64-bit key.
pub fn philox4x32_10(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(c[0]) * 0xd251_1f53;
        let p1 = u64::from(c[2]) * 0xcd9e_8d57;
        c = [
            (p1 >> 32) as u32 ^ c[1] ^ k[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ c[3] ^ k[1],
            p0 as u32,
        ];
        k = [k[0].wrapping_add(0x9e37_79b9), k[1].wrapping_add(0xbb67_ae85)];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_equals_the_vectors_of_random123() {
        let ones = u32::MAX;
        for (c, k, want) in [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([ones; 4], [ones; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ] {
            assert_eq!(philox4x32_10(c, k), want);
        }
    }

    #[test]
    fn streams_differ_by_seed_name_step_and_layer() {
        let base = Seed(1).stream("a", 0, 0).bits(0);
        for other in [
            Seed(2).stream("a", 0, 0),
            Seed(1).stream("b", 0, 0),
            Seed(1).stream("a", 1, 0),
            Seed(1).stream("a", 0, 1),
        ] {
            assert_ne!(base, other.bits(0));
        }
    }
}
