//! The instructions for bf16 that this machine has.

use super::operands::{Bf16Tile, JOINED, Join, UnitRows};
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{amx, avx512};
use crate::cpu::bf16::layout::{ROW, ROWS, Row};
use half::bf16;

const PORTABLE: &str = "portable";

/// The instructions for it.
pub(crate) struct Bf16Isa {
    name: &'static str,
    tile: unsafe fn(&mut Bf16Tile),
    write: unsafe fn(&UnitRows),
    round: unsafe fn(&[f32], &mut [bf16]),
    largest: unsafe fn([&[Row]; 4], &mut [Row]),
    join: unsafe fn(&Join),
    /// Before tiles on a thread, and after them.
    begin: unsafe fn(),
    end: unsafe fn(),
}

impl Bf16Isa {
    /// The best that this machine has, chosen once.
    pub(crate) fn detect() -> &'static Self {
        static BEST: std::sync::OnceLock<Bf16Isa> = std::sync::OnceLock::new();
        BEST.get_or_init(|| Self::available().remove(0))
    }

    /// Whether the machine has instructions for it.
    pub(crate) fn is_native(&self) -> bool {
        self.name != PORTABLE
    }

    /// Those of the processor.
    #[cfg(target_arch = "x86_64")]
    fn native() -> Vec<Self> {
        let mut found = Vec::new();
        let there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        if there {
            let vectors = Self {
                name: "avx512_bf16",
                tile: avx512::tile,
                write: avx512::write,
                round: avx512::round,
                largest: avx512::largest,
                join: avx512::join,
                begin: nothing,
                end: nothing,
            };
            if amx::is_there() {
                let (tile, begin, end) = (amx::tile, amx::begin, amx::end);
                found.push(Self { name: "amx", tile, begin, end, ..vectors });
            }
            found.push(vectors);
        }
        found
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn native() -> Vec<Self> {
        Vec::new()
    }

    /// All that this machine can run, the best first.
    pub(in crate::cpu) fn available() -> Vec<Self> {
        let mut found = Self::native();
        found.push(Self {
            name: PORTABLE,
            tile: portable::tile,
            write: portable::write,
            round: portable::round,
            largest: portable::largest,
            join: portable::join,
            begin: nothing,
            end: nothing,
        });
        found
    }

    #[cfg(test)]
    pub(in crate::cpu) fn name(&self) -> &'static str {
        self.name
    }

    /// Runs `f`, in which this thread may call the others.
    pub(in crate::cpu::bf16) fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: the machine has the instructions; tiles of a thread are nobody else's.
        unsafe { (self.begin)() };
        let _end = End(self);
        f()
    }

    /// # Safety
    /// In [`Self::with`]. For every unit and step 16 rows lie at the distances in one allocation, and the panel's weights.
    pub(in crate::cpu::bf16) unsafe fn tile(&self, tile: &mut Bf16Tile) {
        assert!((1..=2).contains(&tile.halves) && (1..=2).contains(&tile.x.len()));
        // SAFETY: by the caller's word.
        unsafe { (self.tile)(tile) }
    }

    /// Rounds to the nearest, ties to even; the instructions make 0 of what is too small to be normal.
    pub(in crate::cpu::bf16) fn round(&self, values: &[f32], rows: &mut [bf16]) {
        assert!(values.len() == rows.len());
        // SAFETY: the machine has the instructions.
        unsafe { (self.round)(values, rows) }
    }

    /// The largest of four by channel, NaN where one is NaN.
    pub(in crate::cpu::bf16) fn largest(&self, x: [&[Row]; 4], y: &mut [Row]) {
        // SAFETY: the machine has the instructions.
        unsafe { (self.largest)(x, y) }
    }

    /// # Safety
    /// Lines and rows lie where they are said to lie, and nobody else touches the rows.
    pub(in crate::cpu::bf16) unsafe fn join(&self, join: &Join) {
        let lines = join.filled.div_ceil(join.each);
        assert!(join.each <= JOINED && join.filled <= ROW && lines <= join.lines.len());
        // SAFETY: by the caller's word.
        unsafe { (self.join)(join) }
    }

    /// # Safety
    /// Bias, residual and results lie where they are said to lie, and nobody else touches the results.
    pub(in crate::cpu::bf16) unsafe fn write(&self, rows: &UnitRows) {
        assert!(rows.first + rows.count <= ROWS);
        // SAFETY: by the caller's word.
        unsafe { (self.write)(rows) }
    }
}

/// Ends what [`Bf16Isa::with`] has begun, after a panic too.
struct End<'a>(&'a Bf16Isa);

impl Drop for End<'_> {
    fn drop(&mut self) {
        // SAFETY: the machine has the instructions, and this thread has begun.
        unsafe { (self.0.end)() };
    }
}

unsafe fn nothing() {}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, seed: u32) -> Vec<f32> {
        let mixed = |i: usize| (i as u32 + 1).wrapping_mul(0x9e37_79b9).rotate_left(seed);
        (0..len).map(|i| mixed(i) as f32 / (1u32 << 31) as f32 - 1.0).collect()
    }

    #[test]
    fn all_instructions_round_join_and_compare_alike() {
        let mut x = values(5 * ROW + 7, 3);
        x[3..8].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::MAX, -0.0, 1.0 + 1.0 / 256.0]);
        let plain: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
        let bits = |rows: &[bf16]| -> Vec<u16> {
            rows.iter().map(|x| if x.is_nan() { 0x7fc0 } else { x.to_bits() }).collect()
        };
        for isa in Bf16Isa::available() {
            let mut rounded = vec![bf16::ZERO; x.len()];
            isa.round(&x, &mut rounded);
            assert_eq!(bits(&rounded), bits(&plain), "{}", isa.name());

            let (rows, _) = plain.as_chunks::<ROW>();
            let mut y = [[bf16::ONE; ROW]; 2];
            isa.largest([&rows[0..2], &rows[1..3], &rows[2..4], &rows[3..5]], &mut y);
            let largest = |i: usize| {
                let all = [0, 1, 2, 3].map(|row| plain[row * ROW + i].to_f32());
                let nan = all.iter().any(|x| x.is_nan());
                bf16::from_f32(if nan {
                    f32::NAN
                } else {
                    all.into_iter().fold(f32::MIN, f32::max)
                })
            };
            let want: Vec<bf16> = (0..2 * ROW).map(largest).collect();
            assert_eq!(bits(y.as_flattened()), bits(&want), "{}", isa.name());

            for (lines, each) in [(3, 9), (4, 8), (2, 16), (1, 1)] {
                let (pitch, start) =
                    (ROW + 5, |line: usize| plain[13 * line.min(lines - 1)..].as_ptr());
                let mut y = vec![bf16::ONE; 4 * pitch];
                let (filled, columns) = (lines * each, 4);
                let lines = std::array::from_fn(start);
                let join = Join { lines, step: 3, each, filled, columns, y: y.as_mut_ptr(), pitch };
                // SAFETY: lines and rows lie in the two.
                unsafe { isa.join(&join) };
                for (i, &got) in y.iter().enumerate() {
                    let (column, at) = (i / pitch, i % pitch);
                    let want = match at {
                        _ if at < filled => plain[13 * (at / each) + 3 * column + at % each],
                        _ if at < ROW => bf16::ZERO,
                        _ => bf16::ONE,
                    };
                    assert_eq!(bits(&[got]), bits(&[want]), "{} {each} {i}", isa.name());
                }
            }
        }
    }
}
