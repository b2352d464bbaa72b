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

    /// Standard normal numbers `4·block .. 4·block + 4`, two from each pair of words.
    pub fn normals(&self, block: u32) -> [f32; 4] {
        let [a, b, c, d] = self.block(block);
        let ([a, b], [c, d]) = (box_muller(a, b), box_muller(c, d));
        [a, b, c, d]
    }

    /// Number `index` as a standard normal f32.
    pub fn normal(&self, index: usize) -> f32 {
        self.normals((index / 4) as u32)[index % 4]
    }
}

/// `√(−2 ln u)·(cos 2πv, sin 2πv)` with u in (0, 1] of the first word and v in [0, 1) of the second.
///
/// Only + − · / √ in f32 and in this order, so that every device gives the same bits; about 1e-7 from exact.
/// Source: Box & Muller 1958.
fn box_muller(u: u32, v: u32) -> [f32; 2] {
    let u = ((u >> 8) + 1) as f32 * (1.0 / 16_777_216.0);
    let radius = (-2.0 * ln(u)).sqrt();
    let [cos, sin] = turn(unit(v));
    [radius * cos, radius * sin]
}

/// Natural logarithm of a normal number in (0, 1]: `e·ln 2 + 2·artanh((m − 1)/(m + 1))`, m in [√½, √2).
fn ln(x: f32) -> f32 {
    // 0x3f3504f3 = √½: moves the exponent up by one where m would be √2 or more.
    let shifted = x.to_bits() - 0x3f35_04f3;
    let exponent = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff) + 0x3f35_04f3);
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let series = 1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0))));
    exponent * std::f32::consts::LN_2 + 2.0 * s * series
}

/// `(cos 2πv, sin 2πv)` for v in [0, 1): Taylor's series within an eighth of a turn around each quarter.
fn turn(v: f32) -> [f32; 2] {
    let quarters = 4.0 * v;
    let nearest = (quarters + 0.5) as i32;
    let a = (quarters - nearest as f32) * std::f32::consts::FRAC_PI_2;
    let q = a * a;
    let cos = 1.0 + q * (-1.0 / 2.0 + q * (1.0 / 24.0 + q * (-1.0 / 720.0 + q * (1.0 / 40320.0))));
    let odd =
        1.0 + q * (-1.0 / 6.0 + q * (1.0 / 120.0 + q * (-1.0 / 5040.0 + q * (1.0 / 362_880.0))));
    let sin = a * odd;
    match nearest % 4 {
        0 => [cos, sin],
        1 => [-sin, cos],
        2 => [-cos, -sin],
        _ => [sin, -cos],
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
    fn logarithm_and_turn_are_within_rounding() {
        let edges =
            [1u32, 2, 3, 11_863_283, 11_863_284, 11_863_285, 1 << 23, (1 << 24) - 1, 1 << 24];
        for u in (0..10_000).map(|i| i * 1_677 + 1).chain(edges) {
            let u = u as f32 / 16_777_216.0;
            let exact = f64::from(u).ln();
            let error = (f64::from(ln(u)) - exact).abs();
            assert!(error <= 3e-7 * exact.abs(), "ln({u}): {error:e}");
        }
        for v in (0..10_000).map(|i| i * 1_677).chain([(1 << 24) - 1, 1 << 21, 3 << 21, 7 << 21]) {
            let v = v as f32 / 16_777_216.0;
            let (sin, cos) = (std::f64::consts::TAU * f64::from(v)).sin_cos();
            let [c, s] = turn(v).map(f64::from);
            assert!((c - cos).abs() < 2e-7 && (s - sin).abs() < 2e-7, "turn({v}): {c} {s}");
        }
    }

    #[test]
    fn normals_are_standard_and_independent_of_their_neighbours() {
        let rng = Seed(7).stream("normal", 3, 1);
        let n = 1 << 18;
        let x = (0..n as u32 / 4).flat_map(|b| rng.normals(b)).map(f64::from).collect::<Vec<_>>();
        assert_eq!(
            (0..9).map(|i| rng.normal(i)).collect::<Vec<_>>(),
            (0..9).map(|i| x[i] as f32).collect::<Vec<_>>()
        );
        let moment = |power: i32| x.iter().map(|x| x.powi(power)).sum::<f64>() / n as f64;
        // Standard errors: 1, √2, √15, √96 over √n = 512.
        for (power, want, deviation) in
            [(1, 0.0, 1.0), (2, 1.0, 1.42), (3, 0.0, 3.88), (4, 3.0, 9.8)]
        {
            assert!((moment(power) - want).abs() < 4.0 * deviation / 512.0, "moment {power}");
        }
        for lag in 1..5 {
            let product = x.iter().zip(&x[lag..]).map(|(a, b)| a * b).sum::<f64>() / n as f64;
            assert!(product.abs() < 4.0 / 512.0, "lag {lag}: {product}");
        }
        let beyond_two = x.iter().filter(|x| x.abs() > 2.0).count() as f64 / n as f64;
        assert!((beyond_two - 0.0455).abs() < 0.0016, "{beyond_two}");
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
