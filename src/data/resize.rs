//! Bilinear interpolation of images to another size.

/// Resizes `from` [height, width, 3] to [3, size, size], each side on its own.
///
/// Bilinear without antialiasing, pixel centres at half integers, borders repeated, rounded to the nearest byte:
/// `tf.image.resize`'s default, and `torch.nn.functional.interpolate(mode="bilinear")`, up to the rounding.
pub(super) fn bilinear(from: &[u8], height: usize, width: usize, size: usize) -> Vec<u8> {
    let (rows, columns) = (taps(height, size), taps(width, size));
    let mut to = Vec::with_capacity(3 * size * size);
    for c in 0..3 {
        let at = |y: usize, x: usize| f32::from(from[(y * width + x) * 3 + c]);
        for &(y0, y1, fy) in &rows {
            for &(x0, x1, fx) in &columns {
                let top = at(y0, x0) + (at(y0, x1) - at(y0, x0)) * fx;
                let bottom = at(y1, x0) + (at(y1, x1) - at(y1, x0)) * fx;
                to.push((top + (bottom - top) * fy).round() as u8);
            }
        }
    }
    to
}

/// For each new index the two old ones it lies between, and how far along.
fn taps(old: usize, new: usize) -> Vec<(usize, usize, f32)> {
    let scale = old as f64 / new as f64;
    let tap = |i: usize| {
        let position = ((i as f64 + 0.5) * scale - 0.5).clamp(0.0, (old - 1) as f64);
        let first = position as usize;
        (first, (first + 1).min(old - 1), position.fract() as f32)
    };
    (0..new).map(tap).collect()
}
