//! Vectors of bf16 pairs, which AMD's processors from 2022 on and some of Intel's have.

use super::operands::{Bf16Tile, COLUMNS, JOINED, Join, RowTarget, SUMS, UnitRows};
use crate::cpu::bf16::layout::{ROW, ROWS, Row};
use half::bf16;
use std::arch::x86_64::*;

/// Rows whose sums are in registers together, for both halves.
const GROUP: usize = 8;

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn tile(tile: &mut Bf16Tile) {
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
unsafe fn rows<const HALVES: usize>(tile: &Bf16Tile, x: *const bf16, sums: *mut f32) {
    let mut all = [[_mm512_setzero_ps(); HALVES]; GROUP];
    // SAFETY: by the caller's word.
    unsafe {
        for step in tile.steps {
            let (x, w) = (x.byte_add(step.x), tile.w.byte_add(step.w));
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
pub(super) unsafe fn largest(x: [&[Row]; 4], y: &mut [Row]) {
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
pub(super) unsafe fn join(join: &Join) {
    let index: [u16; ROW] =
        std::array::from_fn(|i| (i / join.each * JOINED + i % join.each) as u16);
    let filled = (1u64 << join.filled).wrapping_sub(1) as u32;
    // SAFETY: by the caller's word.
    unsafe {
        let index = _mm512_loadu_si512(index.as_ptr().cast());
        for column in 0..join.columns {
            let [a, b, c, d] = join.lines.map(|line| {
                let words = line.add(column * join.step);
                _mm512_castsi256_si512(_mm256_loadu_si256(words.cast()))
            });
            let two = |a, b| _mm512_inserti64x4::<1>(a, _mm512_castsi512_si256(b));
            let row = _mm512_maskz_permutex2var_epi16(filled, two(a, b), index, two(c, d));
            _mm512_storeu_si512(join.y.add(column * join.pitch).cast(), row);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn write(rows: &UnitRows) {
    // SAFETY: by the caller's word.
    unsafe {
        let bias = [_mm512_loadu_ps(rows.bias), _mm512_loadu_ps(rows.bias.add(COLUMNS))];
        let zero = _mm512_setzero_ps();
        let mask = (1u64 << rows.filters).wrapping_sub(1);
        let there = [mask as u16, (mask >> COLUMNS) as u16];
        for i in 0..rows.count {
            let sums = rows.sums.as_ptr().add((rows.first + i) * COLUMNS);
            let mut low = _mm512_add_ps(_mm512_loadu_ps(sums), bias[0]);
            let mut high = match rows.filters > COLUMNS {
                true => _mm512_add_ps(_mm512_loadu_ps(sums.add(SUMS)), bias[1]),
                false => zero,
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
                RowTarget::Blocked(y, largest) => {
                    let y = y.add(i * ROW);
                    if largest {
                        let [other_low, other_high] = wide(y);
                        (low, high) = (larger(low, other_low), larger(high, other_high));
                    }
                    // Where an activation is not finite, a product with a weight of 0 is no 0.
                    low = _mm512_maskz_mov_ps(there[0], low);
                    high = _mm512_maskz_mov_ps(there[1], high);
                    narrow([low, high], y);
                }
                RowTarget::Floats(y, apart) => {
                    let y = y.add(i * apart);
                    _mm512_mask_storeu_ps(y, there[0], low);
                    _mm512_mask_storeu_ps(y.wrapping_add(COLUMNS), there[1], high);
                }
            }
        }
    }
}
