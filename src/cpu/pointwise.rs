//! What inference does to every element apart from convolutions: scale and shift a channel, a sum, ReLU.

use super::team;

/// Floats of a task.
const CHUNK: usize = 1 << 14;

/// `y = relu?(x · scale + shift + residual?)`; scale and shift by channel, absent for 1 and 0.
///
/// Shapes: x, residual, y `[.., channels]`; scale, shift `[channels]`.
pub(crate) fn run(
    channels: usize,
    x: &[f32],
    scale: Option<(&[f32], &[f32])>,
    residual: Option<&[f32]>,
    relu: bool,
    y: &mut [f32],
) {
    assert!(x.len() == y.len() && residual.is_none_or(|residual| residual.len() == y.len()));
    let len = (CHUNK / channels.max(1)).max(1) * channels.max(1);
    team::for_each_chunk(y, len, |chunk, y| {
        let x = &x[chunk * len..][..y.len()];
        match scale {
            None => y.copy_from_slice(x),
            Some((scale, shift)) => {
                for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                    for c in 0..channels {
                        y[c] = x[c] * scale[c] + shift[c];
                    }
                }
            }
        }
        if let Some(residual) = residual {
            let residual = &residual[chunk * len..][..y.len()];
            y.iter_mut().zip(residual).for_each(|(y, &residual)| *y += residual);
        }
        if relu {
            y.iter_mut().for_each(|y| *y = if *y < 0.0 { 0.0 } else { *y });
        }
    });
}
