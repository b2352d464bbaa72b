//! The products of 16 rows of activations with 32 filters in bf16, summed in f32.

use super::layout::{ROW, ROWS};
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
    /// From a unit's first row, less than 0 for taps to the left of it.
    pub(super) x: isize,
    /// From the panel's first weight.
    pub(super) w: usize,
}

/// `sums[unit][half][row][filter] = Σ_steps Σ_channels x · w` for one or two units of 16 rows and one or two halves of a panel.
pub(super) struct Tile<'a> {
    /// First row of each unit; only the first two are read.
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
    pub(super) halves: usize,
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
    /// As so many floats each, so far apart.
    Floats(*mut f32, usize, usize),
}

const PORTABLE: &str = "portable";

/// The instructions for it.
pub(crate) struct Isa {
    name: &'static str,
    tile: unsafe fn(&mut Tile),
    write: unsafe fn(&Rows),
    round: unsafe fn(&[f32], &mut [bf16]),
    largest: unsafe fn([&[[bf16; ROW]]; 4], &mut [[bf16; ROW]]),
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

    /// Whether the machine has instructions for it; else products in f32 are faster.
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
    pub(in crate::ops::cpu) fn available() -> Vec<Self> {
        let mut found = Self::native();
        found.push(Self {
            name: PORTABLE,
            tile: portable::tile,
            write: portable::write,
            round: portable::round,
            largest: portable::largest,
            begin: nothing,
            end: nothing,
        });
        found
    }

    #[cfg(test)]
    pub(in crate::ops::cpu) fn name(&self) -> &'static str {
        self.name
    }

    /// Runs `f`, in which this thread may call the others.
    pub(super) fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: the machine has the instructions; tiles of a thread are nobody else's.
        unsafe { (self.begin)() };
        let result = f();
        // SAFETY: as above.
        unsafe { (self.end)() };
        result
    }

    /// # Safety
    /// In [`Self::with`]. For every unit and step 16 rows lie at the distances in one allocation, and the panel's weights.
    pub(super) unsafe fn tile(&self, tile: &mut Tile) {
        assert!((1..=2).contains(&tile.halves) && (1..=2).contains(&tile.x.len()));
        // SAFETY: by the caller's word.
        unsafe { (self.tile)(tile) }
    }

    /// Rounds to the nearest, ties to even.
    pub(super) fn round(&self, values: &[f32], rows: &mut [bf16]) {
        assert!(values.len() == rows.len());
        // SAFETY: the machine has the instructions.
        unsafe { (self.round)(values, rows) }
    }

    /// The largest of four by channel, NaN where one is NaN.
    pub(super) fn largest(&self, x: [&[[bf16; ROW]]; 4], y: &mut [[bf16; ROW]]) {
        // SAFETY: the machine has the instructions.
        unsafe { (self.largest)(x, y) }
    }

    /// # Safety
    /// Bias, residual and results lie where they are said to lie, and nobody else touches the results.
    pub(super) unsafe fn write(&self, rows: &Rows) {
        assert!(rows.first + rows.count <= ROWS);
        // SAFETY: by the caller's word.
        unsafe { (self.write)(rows) }
    }
}

unsafe fn nothing() {}

/// The matrix units of Intel's processors from 2023 on.
#[cfg(target_arch = "x86_64")]
mod amx {
    use super::{COLUMNS, ROW, SUMS, Step, Tile};
    use half::bf16;
    use std::arch::asm;

    // Sizes that the templates below spell out: a tile of weights, one of sums, a step.
    const _: () = assert!(2 * COLUMNS * ROW == 1024 && 4 * SUMS == 1024 && size_of::<Step>() == 16);

    /// Asks the system for the tiles' state, which it keeps for each thread that has touched them.
    #[cfg(target_os = "linux")]
    pub(super) fn is_there() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_ulong = 18;
        const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        // SAFETY: the call takes two numbers and changes nothing but the permission.
        leaf.edx & BF16_AND_TILE == BF16_AND_TILE
            && unsafe {
                libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
            } == 0
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn is_there() -> bool {
        false
    }

    #[repr(C, align(64))]
    struct Config([u8; 64]);

    /// All eight tiles of 16 rows of 64 bytes.
    const CONFIG: Config = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = 16;
            tile += 1;
        }
        Config(bytes)
    };

    pub(super) unsafe fn begin() {
        static STORED: Config = CONFIG;
        // SAFETY: a valid configuration, read only.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &STORED, options(nostack, readonly)) };
    }

    pub(super) unsafe fn end() {
        // SAFETY: gives the tiles' state up, which then costs nothing when threads are switched.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }

    /// What the loop below keeps in memory: there are too few registers.
    #[repr(C)]
    struct Operands {
        x: [*const bf16; 2],
        weights: *const bf16,
        steps: *const Step,
        sums: *mut f32,
        lines: usize,
    }

    /// A tile for each unit and half stays in registers over all steps: two loads of activations and two of weights for
    /// four products, each of which takes as long as two loads from the first cache. Activations are not kept there, as the weights are read
    /// again sooner.
    macro_rules! tiles {
        ($name:ident, [$($zero:literal)*], [$($load:literal)*], [$($second:literal)*], [$($product:literal)*], [$($store:literal)*]) => {
            unsafe fn $name(tile: &mut Tile) {
                let operands = Operands {
                    x: [tile.x[0], tile.x[tile.x.len() - 1]],
                    weights: tile.w,
                    steps: tile.steps.as_ptr_range().end,
                    sums: tile.sums.as_mut_ptr(),
                    lines: tile.lines,
                };
                // SAFETY: by the caller's word; tiles are this block's alone.
                unsafe {
                    asm!(
                        $($zero,)*
                        "cmp {steps}, [{operands} + 24]",
                        "jae 5f",
                        "2:",
                        "mov {x}, [{steps}]",
                        "mov {w}, [{steps} + 8]",
                        "add {x}, [{operands}]",
                        "add {w}, [{operands} + 16]",
                        $($load,)*
                        "sub {x}, [{operands}]",
                        "add {x}, [{operands} + 8]",
                        $($second,)*
                        $($product,)*
                        "mov {count}, [{operands} + 40]",
                        "test {count}, {count}",
                        "jz 4f",
                        "3:",
                        "prefetcht1 [{fetch}]",
                        "add {fetch}, 64",
                        "dec {count}",
                        "jnz 3b",
                        "4:",
                        "add {steps}, 16",
                        "cmp {steps}, [{operands} + 24]",
                        "jb 2b",
                        "5:",
                        "mov {x}, [{operands} + 32]",
                        $($store,)*
                        operands = in(reg) &operands,
                        steps = inout(reg) tile.steps.as_ptr() => _,
                        fetch = inout(reg) tile.fetch => _,
                        stride = in(reg) tile.stride,
                        line = in(reg) 2 * ROW,
                        x = out(reg) _,
                        w = out(reg) _,
                        count = out(reg) _,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }
        };
    }

    tiles!(
        two_two,
        ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
        ["tileloaddt1 tmm4, [{x} + {stride}]" "tileloadd tmm6, [{w} + {line}]" "tileloadd tmm7, [{w} + {line} + 1024]"],
        ["tileloaddt1 tmm5, [{x} + {stride}]"],
        ["tdpbf16ps tmm0, tmm4, tmm6" "tdpbf16ps tmm1, tmm4, tmm7"
         "tdpbf16ps tmm2, tmm5, tmm6" "tdpbf16ps tmm3, tmm5, tmm7"],
        ["tilestored [{x} + {line}], tmm0" "tilestored [{x} + {line} + 1024], tmm1"
         "tilestored [{x} + {line} + 2048], tmm2" "tilestored [{x} + {line} + 3072], tmm3"]
    );
    tiles!(
        two_one,
        ["tilezero tmm0" "tilezero tmm2"],
        ["tileloaddt1 tmm4, [{x} + {stride}]" "tileloadd tmm6, [{w} + {line}]"],
        ["tileloaddt1 tmm5, [{x} + {stride}]"],
        ["tdpbf16ps tmm0, tmm4, tmm6" "tdpbf16ps tmm2, tmm5, tmm6"],
        ["tilestored [{x} + {line}], tmm0" "tilestored [{x} + {line} + 2048], tmm2"]
    );
    tiles!(
        one_two,
        ["tilezero tmm0" "tilezero tmm1"],
        ["tileloaddt1 tmm4, [{x} + {stride}]" "tileloadd tmm6, [{w} + {line}]" "tileloadd tmm7, [{w} + {line} + 1024]"],
        [],
        ["tdpbf16ps tmm0, tmm4, tmm6" "tdpbf16ps tmm1, tmm4, tmm7"],
        ["tilestored [{x} + {line}], tmm0" "tilestored [{x} + {line} + 1024], tmm1"]
    );
    tiles!(
        one_one,
        ["tilezero tmm0"],
        ["tileloaddt1 tmm4, [{x} + {stride}]" "tileloadd tmm6, [{w} + {line}]"],
        [],
        ["tdpbf16ps tmm0, tmm4, tmm6"],
        ["tilestored [{x} + {line}], tmm0"]
    );

    pub(super) unsafe fn tile(tile: &mut Tile) {
        // SAFETY: by the caller's word.
        unsafe {
            match (tile.x.len(), tile.halves) {
                (1, 1) => one_one(tile),
                (1, _) => one_two(tile),
                (_, 1) => two_one(tile),
                _ => two_two(tile),
            }
        }
    }
}

/// Vectors of bf16 pairs, which AMD's processors from 2022 on and some of Intel's have.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{COLUMNS, ROW, ROWS, Rows, SUMS, Tile, Written};
    use half::bf16;
    use std::arch::x86_64::*;

    /// Rows whose sums are in registers together, for both halves.
    const GROUP: usize = 8;

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn tile(tile: &mut Tile) {
        let sums = tile.sums.as_mut_ptr();
        // SAFETY: by the caller's word.
        unsafe {
            for (unit, &x) in tile.x.iter().enumerate() {
                for row in (0..ROWS).step_by(GROUP) {
                    let x = x.byte_add(row * tile.stride);
                    let sums = sums.add(2 * unit * SUMS + row * COLUMNS);
                    match tile.halves {
                        1 => rows::<1>(tile, x, sums),
                        _ => rows::<2>(tile, x, sums),
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn rows<const HALVES: usize>(tile: &Tile, x: *const bf16, sums: *mut f32) {
        let mut all = [[_mm512_setzero_ps(); HALVES]; GROUP];
        // SAFETY: by the caller's word.
        unsafe {
            for step in tile.steps {
                let (x, w) = (x.byte_offset(step.x), tile.w.byte_add(step.w));
                for pair in 0..ROW / 2 {
                    let mut weights = [_mm512_setzero_si512(); HALVES];
                    for (half, weights) in weights.iter_mut().enumerate() {
                        *weights = _mm512_loadu_si512(w.add((half * COLUMNS + pair) * ROW).cast());
                    }
                    for (row, sums) in all.iter_mut().enumerate() {
                        let two = x.byte_add(row * tile.stride).cast::<i32>().add(pair);
                        let two = _mm512_set1_epi32(two.read_unaligned());
                        for (sum, weights) in sums.iter_mut().zip(weights) {
                            *sum = _mm512_dpbf16_ps(
                                *sum,
                                std::mem::transmute::<__m512i, __m512bh>(two),
                                std::mem::transmute::<__m512i, __m512bh>(weights),
                            );
                        }
                    }
                }
            }
            for (row, all) in all.iter().enumerate() {
                for (half, &sum) in all.iter().enumerate() {
                    _mm512_storeu_ps(sums.add(half * SUMS + row * COLUMNS), sum);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn wide(row: *const bf16) -> [__m512; 2] {
        // SAFETY: by the caller's word.
        let row = unsafe { _mm512_loadu_si512(row.cast()) };
        let halves = [_mm512_castsi512_si256(row), _mm512_extracti64x4_epi64::<1>(row)];
        halves.map(|half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn narrow([low, high]: [__m512; 2], row: *mut bf16) {
        let both = _mm512_cvtne2ps_pbh(high, low);
        // SAFETY: as many bits of both; by the caller's word.
        unsafe {
            let both = std::mem::transmute::<__m512bh, __m512i>(both);
            _mm512_storeu_si512(row.cast(), both);
        }
    }

    /// The larger, NaN where one is NaN.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn larger(a: __m512, b: __m512) -> __m512 {
        // The second where one is NaN; so only the first is looked at.
        _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a), a)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn round(values: &[f32], rows: &mut [bf16]) {
        let (blocks, rest) = values.as_chunks::<ROW>();
        for (values, row) in blocks.iter().zip(rows.as_chunks_mut::<ROW>().0) {
            // SAFETY: 32 of both.
            unsafe {
                let all = values.as_ptr();
                narrow([_mm512_loadu_ps(all), _mm512_loadu_ps(all.add(COLUMNS))], row.as_mut_ptr());
            }
        }
        if !rest.is_empty() {
            let (mut padded, mut row) = ([0.0; ROW], [bf16::ZERO; ROW]);
            padded[..rest.len()].copy_from_slice(rest);
            // SAFETY: as above.
            unsafe {
                let all = padded.as_ptr();
                narrow([_mm512_loadu_ps(all), _mm512_loadu_ps(all.add(COLUMNS))], row.as_mut_ptr());
            }
            rows[blocks.len() * ROW..][..rest.len()].copy_from_slice(&row[..rest.len()]);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn largest(x: [&[[bf16; ROW]]; 4], y: &mut [[bf16; ROW]]) {
        for (i, y) in y.iter_mut().enumerate() {
            // SAFETY: rows of 32.
            unsafe {
                let [a, b, c, d] = x.map(|x| wide(x[i].as_ptr()));
                let half = |i: usize| larger(larger(a[i], b[i]), larger(c[i], d[i]));
                narrow([half(0), half(1)], y.as_mut_ptr());
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn write(rows: &Rows) {
        // SAFETY: by the caller's word.
        unsafe {
            let bias = [_mm512_loadu_ps(rows.bias), _mm512_loadu_ps(rows.bias.add(COLUMNS))];
            let zero = _mm512_setzero_ps();
            for i in 0..rows.count {
                let sums = rows.sums.as_ptr().add((rows.first + i) * COLUMNS);
                let mut low = _mm512_add_ps(_mm512_loadu_ps(sums), bias[0]);
                let mut high = match rows.halves {
                    1 => zero,
                    _ => _mm512_add_ps(_mm512_loadu_ps(sums.add(SUMS)), bias[1]),
                };
                if let Some(residual) = rows.residual {
                    let [other_low, other_high] = wide(residual.add(i * ROW));
                    low = _mm512_add_ps(low, other_low);
                    high = _mm512_add_ps(high, other_high);
                }
                if rows.relu {
                    // The second operand where one is NaN, so that a NaN stays.
                    (low, high) = (_mm512_max_ps(zero, low), _mm512_max_ps(zero, high));
                }
                match rows.y {
                    Written::Blocked(y, largest) => {
                        let y = y.add(i * ROW);
                        if largest {
                            let [other_low, other_high] = wide(y);
                            (low, high) = (larger(low, other_low), larger(high, other_high));
                        }
                        narrow([low, high], y);
                    }
                    Written::Floats(y, count, apart) => {
                        let mask = |first: usize| {
                            (1u32 << count.saturating_sub(first).min(COLUMNS)).wrapping_sub(1)
                                as u16
                        };
                        let y = y.add(i * apart);
                        _mm512_mask_storeu_ps(y, mask(0), low);
                        _mm512_mask_storeu_ps(y.wrapping_add(COLUMNS), mask(COLUMNS), high);
                    }
                }
            }
        }
    }
}

/// The same by plain loops, in the order of the matrix units.
mod portable {
    use super::{COLUMNS, ROW, ROWS, Rows, SUMS, Tile, Written};
    use half::bf16;

    /// Sums of even and of odd channels of a step apart, then together, then with those of the steps before.
    pub(super) unsafe fn tile(tile: &mut Tile) {
        tile.sums.fill(0.0);
        for (unit, &x) in tile.x.iter().enumerate() {
            for (step, half) in
                tile.steps.iter().flat_map(|step| (0..tile.halves).map(move |half| (step, half)))
            {
                for (row, column) in (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |c| (row, c))) {
                    let mut parts = [0.0f32; 2];
                    for channel in 0..ROW {
                        // SAFETY: by the caller's word.
                        let (x, w) = unsafe {
                            let w = tile.w.byte_add(step.w).add(half * COLUMNS * ROW);
                            let x = x.byte_offset(step.x).byte_add(row * tile.stride);
                            (
                                *x.add(channel),
                                *w.add((channel / 2 * COLUMNS + column) * 2 + channel % 2),
                            )
                        };
                        let part = &mut parts[channel % 2];
                        *part = x.to_f32().mul_add(w.to_f32(), *part);
                    }
                    tile.sums[(2 * unit + half) * SUMS + row * COLUMNS + column] +=
                        parts[0] + parts[1];
                }
            }
        }
    }

    pub(super) unsafe fn round(values: &[f32], rows: &mut [bf16]) {
        rows.iter_mut().zip(values).for_each(|(y, &x)| *y = bf16::from_f32(x));
    }

    pub(super) unsafe fn largest(x: [&[[bf16; ROW]]; 4], y: &mut [[bf16; ROW]]) {
        for (i, y) in y.as_flattened_mut().iter_mut().enumerate() {
            let all = x.map(|x| x.as_flattened()[i].to_f32());
            let larger = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
            *y = bf16::from_f32(all.into_iter().fold(f32::NEG_INFINITY, larger));
        }
    }

    pub(super) unsafe fn write(rows: &Rows) {
        for (i, column) in (0..rows.count).flat_map(|i| (0..2 * COLUMNS).map(move |c| (i, c))) {
            let half = column / COLUMNS;
            let sum = rows.sums[half * SUMS + (rows.first + i) * COLUMNS + column % COLUMNS];
            let mut sum = if half < rows.halves { sum } else { 0.0 };
            // SAFETY: by the caller's word.
            unsafe {
                sum += *rows.bias.add(column);
                if let Some(residual) = rows.residual {
                    sum += residual.add(i * ROW + column).read().to_f32();
                }
                if rows.relu && sum < 0.0 {
                    sum = 0.0;
                }
                match rows.y {
                    Written::Blocked(y, largest) => {
                        let y = y.add(i * ROW + column);
                        let old = if largest { y.read().to_f32() } else { sum };
                        y.write(bf16::from_f32(if old > sum || old.is_nan() { old } else { sum }));
                    }
                    Written::Floats(y, count, apart) if column < count => {
                        y.add(i * apart + column).write(sum);
                    }
                    Written::Floats(..) => {}
                }
            }
        }
    }
}
