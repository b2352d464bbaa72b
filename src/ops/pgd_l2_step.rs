//! One step of projected gradient descent in the L2 ball.

use crate::Result;
use crate::device::Launch;
use crate::tensor::{On, Tensor};
use rayon::prelude::*;

/// `x ← clip(x0 + d·min(1, eps/‖d‖₂), 0, 1)` with `d = x − x0 + step_size·g/‖g‖₂`, image by image.
///
/// Shapes: equal, images first. Units: pixels in [0, 1]. A gradient that is 0 or not finite moves nothing. Clipping after the
/// projection never leaves the ball, because x0 lies in [0, 1].
/// Source: Madry et al. 2018; steps of fixed length as in Foolbox.
pub fn pgd_l2_step(
    x: &mut Tensor,
    x0: &Tensor,
    g: &Tensor,
    eps: f32,
    step_size: f32,
) -> Result<()> {
    x0.expect_shape("pgd_l2_step", "x0", x.shape())?;
    g.expect_shape("pgd_l2_step", "g", x.shape())?;
    let images = x.shape().first().copied().unwrap_or(0);
    if x.is_empty() {
        return Ok(());
    }
    let size = x.len() / images;
    match x0.on() {
        On::Cpu => {
            let operands = x0.cpu::<f32>()?.par_chunks(size).zip(g.cpu::<f32>()?.par_chunks(size));
            x.cpu_mut::<f32>()?
                .par_chunks_mut(size)
                .zip(operands)
                .for_each(|(x, (x0, g))| step(x, x0, g, eps, step_size));
        }
        On::Gpu(gpu) => {
            x.make_unique()?;
            Launch::new("pgd_l2_step_f32")
                .grid(images as u32, 1, 1)
                .block(256, 1, 1)
                .arg(x)
                .arg(x0)
                .arg(g)
                .arg(&eps)
                .arg(&step_size)
                .arg(&(size as i64))
                .run(gpu)?;
        }
    }
    Ok(())
}

/// One image.
fn step(x: &mut [f32], x0: &[f32], g: &[f32], eps: f32, step_size: f32) {
    // Divided by the largest element first: squares of the smallest gradients would be 0.
    let top = g.iter().fold(0.0f32, |top, g| top.max(g.abs()));
    let length = norm(g.iter().map(|g| g / top));
    // 0/0 and gradients with NaN give NaN, which is not above 1.
    let moves = length >= 1.0 && top.is_finite();
    for ((x, x0), g) in x.iter_mut().zip(x0).zip(g) {
        let push = if moves { step_size * (g / top / length) } else { 0.0 };
        *x = *x - x0 + push;
    }
    let radius = norm(x.iter().copied());
    let shrink = if radius > eps { eps / radius } else { 1.0 };
    for (x, x0) in x.iter_mut().zip(x0) {
        *x = (x0 + *x * shrink).clamp(0.0, 1.0);
    }
}

/// ‖v‖₂, summed in f64.
fn norm(v: impl Iterator<Item = f32>) -> f32 {
    (v.map(|v| f64::from(v) * f64::from(v)).sum::<f64>() as f32).sqrt()
}
