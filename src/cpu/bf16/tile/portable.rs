//! The same by plain loops, in the order of the matrix units.

use super::operands::{Bf16Tile, COLUMNS, Join, RowTarget, SUMS, UnitRows};
use crate::cpu::bf16::layout::{ROW, ROWS, Row};
use crate::cpu::pool2d::larger;
use half::bf16;

/// Sums of even and of odd channels of a step apart, then together, then with those of the steps before.
pub(super) unsafe fn tile(tile: &mut Bf16Tile) {
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
                        let x = x.byte_add(step.x).byte_add(row * tile.stride);
                        (
                            *x.add(channel),
                            *w.add((channel / 2 * COLUMNS + column) * 2 + channel % 2),
                        )
                    };
                    let part = &mut parts[channel % 2];
                    *part = x.to_f32().mul_add(w.to_f32(), *part);
                }
                tile.sums[(2 * unit + half) * SUMS + row * COLUMNS + column] += parts[0] + parts[1];
            }
        }
    }
}

pub(super) unsafe fn round(values: &[f32], rows: &mut [bf16]) {
    rows.iter_mut().zip(values).for_each(|(y, &x)| *y = bf16::from_f32(x));
}

pub(super) unsafe fn largest(x: [&[Row]; 4], y: &mut [Row]) {
    for (i, y) in y.as_flattened_mut().iter_mut().enumerate() {
        let all = x.map(|x| x.as_flattened()[i].to_f32());
        *y = bf16::from_f32(all.into_iter().fold(f32::NEG_INFINITY, larger));
    }
}

pub(super) unsafe fn join(join: &Join) {
    for (column, i) in (0..join.columns).flat_map(|x| (0..ROW).map(move |i| (x, i))) {
        // SAFETY: by the caller's word.
        unsafe {
            let word = match i < join.filled {
                true => {
                    let line = join.lines[i / join.each];
                    line.add(column * join.step + i % join.each).read()
                }
                false => bf16::ZERO,
            };
            join.y.add(column * join.pitch + i).write(word);
        }
    }
}

pub(super) unsafe fn write(rows: &UnitRows) {
    for (i, column) in (0..rows.count).flat_map(|i| (0..2 * COLUMNS).map(move |c| (i, c))) {
        let half = column / COLUMNS;
        let mut sum = rows.sums[half * SUMS + (rows.first + i) * COLUMNS + column % COLUMNS];
        let there = column < rows.filters;
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
                RowTarget::Blocked(y, largest) => {
                    let y = y.add(i * ROW + column);
                    let sum = if largest { larger(y.read().to_f32(), sum) } else { sum };
                    y.write(if there { bf16::from_f32(sum) } else { bf16::ZERO });
                }
                RowTarget::Floats(y, apart) if there => {
                    y.add(i * apart + column).write(sum);
                }
                RowTarget::Floats(..) => {}
            }
        }
    }
}
