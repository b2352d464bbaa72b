//! Softmax and cross-entropy in one: losses, their mean, and the gradient of the logits.

use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Error, Result, Tape};
use rayon::prelude::*;

/// Mean cross-entropy: `L = (1/N) Σ_n (log Σ_k exp z[n, k] − z[n, labels[n]])`, shifted by the row's maximum.
///
/// Shapes: logits z `[N, K]`, N and K at least 1; labels `[N]` i32 in 0..K; result `[1]`.
/// Gradient: `dz = (softmax(z) − onehot) · dL / N`; a seed of N thus gives the gradient of the summed loss.
/// Errors: a label outside 0..K is [`crate::ErrorKind::Param`] on the CPU; a kernel gives NaN for its image.
pub fn softmax_xent(tape: &mut Tape, logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let (each, residual) = rows(logits, labels, tape.tracks(logits))?;
    let loss = mean(&each)?;
    if let Some(residual) = residual {
        let id = logits.id();
        tape.push(&[logits], &loss, move |dy, gradients| {
            gradients.add(id, scale_by(&residual, dy)?)
        });
    }
    Ok(loss)
}

/// The cross-entropy of every image by itself: shapes as [`softmax_xent`], result `[N]`; not differentiated.
pub fn softmax_xent_each(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    Ok(rows(logits, labels, false)?.0)
}

/// Losses [N] and, if asked for, `softmax − onehot` [N, K].
fn rows(logits: &Tensor, labels: &Tensor, residual: bool) -> Result<(Tensor, Option<Tensor>)> {
    let [n, k] = logits.dims2("softmax_xent", "logits")?;
    if n == 0 || k == 0 {
        return Err(Error::shape("softmax_xent", "logits", "not empty", logits.shape()));
    }
    labels.expect_shape("softmax_xent", "labels", &[n])?;
    labels.expect_dtype("softmax_xent", DType::I32)?;
    let mut each = logits.empty_like(&[n], DType::F32)?;
    let mut residual = if residual { Some(logits.empty_like(&[n, k], DType::F32)?) } else { None };
    match logits.on() {
        On::Cpu => {
            let (z, labels) = (logits.cpu::<f32>()?, labels.cpu::<i32>()?);
            if let Some(label) = labels.iter().find(|&&label| !(0..k as i32).contains(&label)) {
                return Err(Error::param("label", label, format!("in 0..{k}")));
            }
            let losses = each.cpu_mut::<f32>()?;
            match &mut residual {
                Some(residual) => losses
                    .par_iter_mut()
                    .zip(residual.cpu_mut::<f32>()?.par_chunks_mut(k))
                    .zip(z.par_chunks(k).zip(labels))
                    .for_each(|((loss, residual), (z, &label))| {
                        *loss = row(z, label as usize, Some(residual));
                    }),
                None => losses
                    .par_iter_mut()
                    .zip(z.par_chunks(k).zip(labels))
                    .for_each(|(loss, (z, &label))| *loss = row(z, label as usize, None)),
            }
        }
        On::Gpu(gpu) => Launch::new("softmax_xent_f32")
            .grid(n.div_ceil(ROWS_PER_BLOCK).min(4096) as u32, 1, 1)
            .block(32 * ROWS_PER_BLOCK as u32, 1, 1)
            .arg(logits)
            .arg(labels)
            .arg(&each)
            .arg(&residual.as_ref())
            .arg(&(n as i32))
            .arg(&(k as i32))
            .run(gpu)?,
    }
    Ok((each, residual))
}

/// A warp does a row.
const ROWS_PER_BLOCK: usize = 8;

/// The loss of one row; `residual` receives `softmax − onehot`.
fn row(z: &[f32], label: usize, residual: Option<&mut [f32]>) -> f32 {
    let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = |z: f32| f64::from(z) - f64::from(max);
    let sum = z.iter().map(|&z| shifted(z).exp()).sum::<f64>();
    if let Some(residual) = residual {
        for (i, (out, &z)) in residual.iter_mut().zip(z).enumerate() {
            let onehot = if i == label { 1.0 } else { 0.0 };
            *out = (shifted(z).exp() / sum - onehot) as f32;
        }
    }
    (sum.ln() - shifted(z[label])) as f32
}

/// The mean of [N] as [1], in a fixed order.
fn mean(each: &Tensor) -> Result<Tensor> {
    let mut loss = each.empty_like(&[1], DType::F32)?;
    let n = each.len();
    match each.on() {
        On::Cpu => {
            let sum = each.cpu::<f32>()?.iter().map(|&loss| f64::from(loss)).sum::<f64>();
            loss.cpu_mut::<f32>()?[0] = (sum / n as f64) as f32;
        }
        On::Gpu(gpu) => {
            Launch::new("softmax_xent_mean_f32").arg(each).arg(&loss).arg(&(n as i32)).run(gpu)?
        }
    }
    Ok(loss)
}

/// `residual · (dy[0] / N)`; the seed stays on the device.
fn scale_by(residual: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let mut dz = residual.empty_like(residual.shape(), DType::F32)?;
    let n = residual.shape()[0];
    match residual.on() {
        On::Cpu => {
            let factor = dy.cpu::<f32>()?[0] / n as f32;
            let residual = residual.cpu::<f32>()?;
            dz.cpu_mut::<f32>()?.iter_mut().zip(residual).for_each(|(dz, &r)| *dz = r * factor);
        }
        On::Gpu(gpu) => Launch::new("softmax_xent_backward_f32")
            .elements(residual.len())
            .arg(residual)
            .arg(dy)
            .arg(&dz)
            .arg(&(n as i32))
            .arg(&(residual.len() as i64))
            .run(gpu)?,
    }
    Ok(dz)
}
