//! Normalisation of pixels: `y = (x − mean) / std`, the first layer of a model.

use super::elementwise::CHUNK;
use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result, Tape};
use rayon::prelude::*;

/// `y[.., c] = (x[.., c] − mean[c]) / std[c]`. A layer of the model, so that attacks see pixels.
///
/// Shapes: x, y [.., C]; mean, std `[C]`. Gradient: `dx = dy / std`; mean and std are constants.
/// Units: x in [0, 1].
pub fn normalize(tape: &mut Tape, x: &Tensor, mean: &Tensor, std: &Tensor) -> Result<Tensor> {
    let c = *x
        .shape()
        .last()
        .ok_or_else(|| Error::shape("normalize", "x", "of 1 dimension or more", x.shape()))?;
    mean.expect_shape("normalize", "mean", &[c])?;
    std.expect_shape("normalize", "std", &[c])?;
    let y = apply(x, Some(mean), std)?;
    let (x_id, std) = (x.id(), std.clone());
    tape.push(&[x], &y, move |dy, gradients| gradients.add(x_id, apply(dy, None, &std)?));
    Ok(y)
}

/// `(x − mean) / std` by channel, without a mean for the gradient.
fn apply(x: &Tensor, mean: Option<&Tensor>, std: &Tensor) -> Result<Tensor> {
    let c = std.len();
    let mut y = x.empty_like(x.shape(), DType::F32)?;
    match x.on() {
        On::Cpu => {
            let (x, std) = (x.cpu::<f32>()?, std.cpu::<f32>()?);
            let mean = mean.map(|mean| mean.cpu::<f32>()).transpose()?;
            let rows = (CHUNK / c.max(1)).max(1) * c.max(1);
            y.cpu_mut::<f32>()?.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(y, x)| {
                for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                    for i in 0..c {
                        y[i] = (x[i] - mean.map_or(0.0, |mean| mean[i])) / std[i];
                    }
                }
            });
        }
        On::Gpu(gpu) => Launch::new("normalize_f32")
            .elements(x.len())
            .arg(x)
            .arg(&mean)
            .arg(std)
            .arg(&y)
            .arg(&(x.len() as i64))
            .arg(&(c as i32))
            .run(gpu)?,
    }
    Ok(y)
}
