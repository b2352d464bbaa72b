//! The products of 16 rows of activations with 32 filters in bf16, summed in f32.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::layout::{ROW, ROWS, Row};
use half::bf16;

/// Filters of a half of a panel, the columns of a tile.
pub(super) const COLUMNS: usize = 16;
/// Sums of one unit and half.
pub(super) const SUMS: usize = ROWS * COLUMNS;
/// bf16 weights of 32 channels for a panel of 32 filters: `[half][channel / 2][filter][2]`.
pub(super) const STEP: usize = 2 * COLUMNS * ROW;

/// 32 channels of one tap, as distances in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// From the row that a unit reads through tap (0, 0).
    pub(super) x: isize,
    /// From the panel's first weight.
    pub(super) w: usize,
}

/// Sums whose rows are cache lines.
#[repr(align(64))]
pub(super) struct Sums(pub(super) [f32; 4 * SUMS]);

/// `sums[unit][half][row][filter] = Σ_steps Σ_channels x · w` for one or two units of 16 rows and one or two halves of a panel.
pub(super) struct Tile<'a> {
    /// First row of each unit.
    pub(super) x: &'a [*const bf16],
    /// Bytes from row to row.
    pub(super) stride: usize,
    pub(super) steps: &'a [Step],
    pub(super) w: *const bf16,
    pub(super) halves: usize,
    /// Cache lines from here on that each step asks for, so many.
    pub(super) fetch: *const bf16,
    pub(super) lines: usize,
    /// Room for two units.
    pub(super) sums: &'a mut [f32; 4 * SUMS],
}

/// What is done with sums before they are written.
pub(super) struct Rows<'a> {
    /// Of one unit: `[half][row][filter]`.
    pub(super) sums: &'a [f32; 2 * SUMS],
    /// Of the panel; behind them are zeros.
    pub(super) filters: usize,
    /// The first row, and how many.
    pub(super) first: usize,
    pub(super) count: usize,
    /// For 32 filters.
    pub(super) bias: *const f32,
    /// The rows that are added, behind each other.
    pub(super) residual: Option<*const bf16>,
    pub(super) relu: bool,
    pub(super) y: Written,
}

/// Where rows go.
#[derive(Clone, Copy)]
pub(super) enum Written {
    /// To rows behind each other; the larger of them and what is there, where that is said.
    Blocked(*mut bf16, bool),
    /// As floats, so far apart.
    Floats(*mut f32, usize),
}

/// Words of a line that are joined.
pub(super) const JOINED: usize = 16;

/// `y[column][i] = lines[i / each][column · step + i % each]` for the first `filled` words of a row, zeros behind them.
pub(super) struct Join {
    /// Each may be read to 16 words behind its last column's first.
    pub(super) lines: [*const bf16; 4],
    pub(super) step: usize,
    /// At most 16.
    pub(super) each: usize,
    /// At most 32, of as many lines as there are.
    pub(super) filled: usize,
    pub(super) columns: usize,
    /// The first row, and words from row to row.
    pub(super) y: *mut bf16,
    pub(super) pitch: usize,
}

const PORTABLE: &str = "portable";

/// The instructions for it.
pub(crate) struct Isa {
    name: &'static str,
    tile: unsafe fn(&mut Tile),
    write: unsafe fn(&Rows),
    round: unsafe fn(&[f32], &mut [bf16]),
    largest: unsafe fn([&[Row]; 4], &mut [Row]),
    join: unsafe fn(&Join),
    /// Before tiles on a thread, and after them.
    begin: unsafe fn(),
    end: unsafe fn(),
}

impl Isa {
    /// The best that this machine has, chosen once.
    pub(crate) fn detect() -> &'static Self {
        static BEST: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
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
    pub(super) fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: the machine has the instructions; tiles of a thread are nobody else's.
        unsafe { (self.begin)() };
        let _end = End(self);
        f()
    }

    /// # Safety
    /// In [`Self::with`]. For every unit and step 16 rows lie at the distances in one allocation, and the panel's weights.
    pub(super) unsafe fn tile(&self, tile: &mut Tile) {
        assert!((1..=2).contains(&tile.halves) && (1..=2).contains(&tile.x.len()));
        // SAFETY: by the caller's word.
        unsafe { (self.tile)(tile) }
    }

    /// Rounds to the nearest, ties to even; the instructions make 0 of what is too small to be normal.
    pub(super) fn round(&self, values: &[f32], rows: &mut [bf16]) {
        assert!(values.len() == rows.len());
        // SAFETY: the machine has the instructions.
        unsafe { (self.round)(values, rows) }
    }

    /// The largest of four by channel, NaN where one is NaN.
    pub(super) fn largest(&self, x: [&[Row]; 4], y: &mut [Row]) {
        // SAFETY: the machine has the instructions.
        unsafe { (self.largest)(x, y) }
    }

    /// # Safety
    /// Lines and rows lie where they are said to lie, and nobody else touches the rows.
    pub(super) unsafe fn join(&self, join: &Join) {
        let lines = join.filled.div_ceil(join.each);
        assert!(join.each <= JOINED && join.filled <= ROW && lines <= join.lines.len());
        // SAFETY: by the caller's word.
        unsafe { (self.join)(join) }
    }

    /// # Safety
    /// Bias, residual and results lie where they are said to lie, and nobody else touches the results.
    pub(super) unsafe fn write(&self, rows: &Rows) {
        assert!(rows.first + rows.count <= ROWS);
        // SAFETY: by the caller's word.
        unsafe { (self.write)(rows) }
    }
}

/// Ends what [`Isa::with`] has begun, after a panic too.
struct End<'a>(&'a Isa);

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
        for isa in Isa::available() {
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
