//! Random numbers that depend on nothing but their name: Philox4x32-10, a counter-based generator. Start with [`Seed`].
//!
//! A number is a pure function of seed, name of the stream, step, layer and index. It is the same on every device, with any
//! number of threads, after a resumed run, and when a backward pass draws it again. `kernels/common/philox.cuh` does the same
//! arithmetic on a GPU.
//!
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

/// The seed of a run.
///
/// Every feature that draws numbers takes a stream with a name of its own, so that switching one feature off does not change
/// the numbers of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The stream `name` at step `step`. `layer` tells apart streams of one name, such as those of several layers.
    pub fn stream(self, name: &str, step: u64, layer: u32) -> Philox {
        let key = self.key(name);
        Philox { key: [key as u32, (key >> 32) as u32], step, layer }
    }

    /// A sequential generator on the host, for shuffles; `name` and `step` as in [`Seed::stream`].
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
    /// The four numbers from index `4·block` on, as uniform bits.
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

    /// The four numbers from index `4·block` on, as standard normal numbers: see [`normal_pair`].
    pub fn normals(&self, block: u32) -> [f32; 4] {
        let [a, b, c, d] = self.block(block);
        let (first, second) = (normal_pair(a, b), normal_pair(c, d));
        [first.0, first.1, second.0, second.1]
    }

    /// Number `index` as a standard normal f32.
    pub fn normal(&self, index: usize) -> f32 {
        self.normals((index / 4) as u32)[index % 4]
    }
}

/// Two independent standard normal numbers from two words of uniform bits: `r cos a` and `r sin a`.
///
/// `r = √(−2 ln u)`, where u in (0, 1] is made of the first word. The angle a is the second word's share of a full turn. No
/// number is larger than 5.8 in size. The function uses IEEE operations and fused multiply-adds alone, so that every device
/// gives the same bits.
///
/// Source: Box and Muller, "A note on the generation of random normal deviates", 1958.
pub fn normal_pair(radius: u32, turn: u32) -> (f32, f32) {
    let r = (-2.0 * ln(((radius >> 8) + 1) as f32 * (1.0 / 16_777_216.0))).sqrt();
    let t = turn >> 8;
    let quarter = (t + (1 << 21)) >> 22;
    let x = (t as i32 - (quarter << 22) as i32) as f32 * (std::f32::consts::TAU / 16_777_216.0);
    let z = x * x;
    let sine = (-1.958_789e-4_f32).mul_add(z, 8.332_748e-3).mul_add(z, -0.166_666_64);
    let sine = (x * z).mul_add(sine, x);
    let cosine = 2.454_794_3e-5f32.mul_add(z, -1.388_830_2e-3).mul_add(z, 0.041_666_664);
    let cosine = (z * z).mul_add(cosine, (-0.5f32).mul_add(z, 1.0));
    match quarter % 4 {
        0 => (r * cosine, r * sine),
        1 => (r * -sine, r * cosine),
        2 => (r * -cosine, r * -sine),
        _ => (r * sine, r * -cosine),
    }
}

/// ln(u) for u in [2⁻²⁴, 1]: u = 2ᵉ(1 + f) with 1 + f in (0.70, 1.42), and a polynomial in f.
fn ln(u: f32) -> f32 {
    let bits = u.to_bits();
    // The mantissa rounds up from √2 on.
    let shift = (bits + 0x004a_fb0d) >> 23;
    let e = (shift as i32 - 127) as f32;
    let f = f32::from_bits(bits.wrapping_add(127u32.wrapping_sub(shift) << 23)) - 1.0;
    let p = [
        -0.114_797_34,
        0.116_854_2,
        -0.124_256_87,
        0.142_490_58,
        -0.166_678_03,
        0.200_007_16,
        -0.249_999_97,
        0.333_333_3,
    ]
    .into_iter()
    .fold(0.069_716_11f32, |p, c| p.mul_add(f, c));
    let z = f * f;
    let tail = e.mul_add(1.428_606_8e-6, (f * z).mul_add(p, -0.5 * z));
    e.mul_add(0.693_145_75, f + tail)
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
#[path = "../tests/seed.rs"]
pub(crate) mod seed;

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

    /// The numbers behind `normal_pair` in f64.
    fn exact_pair(radius: u32, turn: u32) -> (f64, f64) {
        let unit = 1.0 / 16_777_216.0;
        let r = (-2.0 * (f64::from((radius >> 8) + 1) * unit).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * f64::from(turn >> 8) * unit).sin_cos();
        (r * cosine, r * sine)
    }

    #[test]
    fn normal_numbers_follow_the_formula() {
        let philox = Seed(3).stream("normal", 0, 0);
        let mut words: Vec<[u32; 2]> = (0..50_000)
            .map(|b| philox.block(b))
            .flat_map(|[a, b, c, d]| [[a, b], [c, d]])
            .collect();
        let edges =
            [0, 1 << 8, 1 << 29, 1 << 30, 1 << 31, 3 << 29, 3 << 30, u32::MAX - 255, u32::MAX];
        words.extend(edges.iter().flat_map(|&a| edges.map(|b| [a, b])));
        for [a, b] in words {
            let (got, want) = (normal_pair(a, b), exact_pair(a, b));
            let size = (want.0 * want.0 + want.1 * want.1).sqrt();
            for (got, want) in [(got.0, want.0), (got.1, want.1)] {
                let error = (f64::from(got) - want).abs();
                assert!(error <= 4e-7 * size, "{a:#x} {b:#x}: {got} for {want}");
            }
        }
    }

    #[test]
    fn normal_numbers_are_standard_normal() {
        let philox = Seed(4).stream("normal", 7, 1);
        let n = 400_000;
        let mut x: Vec<f64> = (0..n).map(|i| f64::from(philox.normal(i))).collect();
        let moment = |k| x.iter().map(|x| x.powi(k)).sum::<f64>() / n as f64;
        // Five standard errors of each moment.
        for (k, want, spread) in [(1, 0.0, 1.0f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let error = (moment(k) - want).abs();
            assert!(error < 5.0 * (spread / n as f64).sqrt(), "moment {k}: {}", moment(k));
        }
        let lag = x.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / n as f64;
        assert!(lag.abs() < 5.0 / (n as f64).sqrt(), "neighbours: {lag}");
        // The distance of Kolmogorov and Smirnov at some quantiles: 1.95/√n is exceeded once in a thousand times.
        x.sort_by(f64::total_cmp);
        for (at, share) in [
            (-3.0, 0.001_349_898),
            (-1.0, 0.158_655_254),
            (0.0, 0.5),
            (0.5, 0.691_462_461),
            (2.0, 0.977_249_868),
        ] {
            let below = x.partition_point(|&x| x < at) as f64 / n as f64;
            assert!((below - share).abs() < 1.95 / (n as f64).sqrt(), "below {at}: {below}");
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
