//! Elementwise operations: `relu`, `add`.

use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use crate::{Result, Tape};
use rayon::prelude::*;

/// Elements that one task of a CPU path handles; fixed, so that results do not depend on threads.
pub(super) const CHUNK: usize = 1 << 14;

/// Rectified linear unit: `y = max(x, 0)`; a NaN stays one, −0 becomes 0.
///
/// Shapes: any. Gradient: `dx = dy · [y > 0]`, so 0 at `x = 0` as in PyTorch; keeps `y`, not `x`.
/// Source: Nair & Hinton 2010.
pub fn relu(tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
    let y = map("relu_forward_f32", x, |x| if x <= 0.0 { 0.0 } else { x })?;
    let (x_id, saved) = (x.id(), y.clone());
    tape.push(&[x], &y, move |dy, gradients| {
        let dx = map2("relu_backward_f32", dy, &saved, |dy, y| if y <= 0.0 { 0.0 } else { dy })?;
        gradients.add(x_id, dx)
    });
    Ok(y)
}

/// Sum: `y = a + b`.
///
/// Shapes: equal. Gradient: `da = db = dy`.
pub fn add(tape: &mut Tape, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = sum(a, b)?;
    let (a_id, b_id) = (a.id(), b.id());
    tape.push(&[a, b], &y, move |dy, gradients| {
        gradients.add(a_id, dy.clone())?;
        gradients.add(b_id, dy.clone())
    });
    Ok(y)
}

/// [`add`] outside a tape: the accumulation of gradients.
pub fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    b.expect_shape("add", "b", a.shape())?;
    map2("add_forward_f32", a, b, |a, b| a + b)
}

/// `f` of every element, or the kernel of that name with the arguments `(x, y, len)`.
fn map(kernel: &'static str, x: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
    let mut y = x.empty_like(x.shape(), DType::F32)?;
    match x.on() {
        On::Cpu => fill(y.cpu_mut()?, x.cpu()?, f),
        On::Gpu(gpu) => Launch::new(kernel)
            .elements(x.len().div_ceil(4))
            .arg(x)
            .arg(&y)
            .arg(&(x.len() as i64))
            .run(gpu)?,
    }
    Ok(y)
}

fn fill(out: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32 + Sync) {
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| {
        out.iter_mut().zip(x).for_each(|(out, &x)| *out = f(x));
    });
}

/// `f` of two equally long tensors, or the kernel of that name with the arguments `(a, b, out, len)`.
fn map2(
    kernel: &'static str,
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Result<Tensor> {
    let mut out = a.empty_like(a.shape(), DType::F32)?;
    match a.on() {
        On::Cpu => {
            let (a, b) = (a.cpu::<f32>()?, b.cpu::<f32>()?);
            let chunks = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
            out.cpu_mut::<f32>()?.par_chunks_mut(CHUNK).zip(chunks).for_each(|(out, (a, b))| {
                out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (&a, &b))| *out = f(a, b));
            });
        }
        On::Gpu(gpu) => Launch::new(kernel)
            .elements(a.len().div_ceil(4))
            .arg(a)
            .arg(b)
            .arg(&out)
            .arg(&(a.len() as i64))
            .run(gpu)?,
    }
    Ok(out)
}
