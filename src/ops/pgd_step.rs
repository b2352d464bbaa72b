//! One step of projected gradient descent in the L∞ ball, and its random start.

use super::elementwise::CHUNK;
use crate::Result;
use crate::device::Launch;
use crate::dtype::DType;
use crate::rng::Philox;
use crate::tensor::{On, Tensor};
use rayon::prelude::*;

/// Random start: `x = clip(x0 + U(−eps, eps), 0, 1)`, elementwise.
///
/// Element i draws number `first_index + i` of the stream, so a start does not depend on how images are batched.
/// Shapes: any. Units: pixels in [0, 1]. Source: Madry et al. 2018.
pub fn pgd_start(x0: &Tensor, eps: f32, rng: &Philox, first_index: u64) -> Result<Tensor> {
    let mut x = x0.empty_like(x0.shape(), DType::F32)?;
    match x0.on() {
        On::Cpu => {
            let chunks = x0.cpu::<f32>()?.par_chunks(CHUNK);
            x.cpu_mut::<f32>()?.par_chunks_mut(CHUNK).zip(chunks).enumerate().for_each(
                |(chunk, (x, x0))| {
                    let first = first_index as usize + chunk * CHUNK;
                    for (i, (x, x0)) in x.iter_mut().zip(x0).enumerate() {
                        let noise = eps * (2.0 * rng.uniform(first + i) - 1.0);
                        *x = clip(x0 + noise, 0.0, 1.0);
                    }
                },
            );
        }
        On::Gpu(gpu) => Launch::new("pgd_start_f32")
            .elements(x0.len().div_ceil(4) + 1)
            .arg(x0)
            .arg(&x)
            .arg(&eps)
            .arg(&rng.key[0])
            .arg(&rng.key[1])
            .arg(&rng.layer)
            .arg(&rng.step)
            .arg(&(first_index as i64))
            .arg(&(x0.len() as i64))
            .run(gpu)?,
    }
    Ok(x)
}

/// `x ← min(max(x + step_size·sign(g), max(x0 − eps, 0)), min(x0 + eps, 1))`, elementwise, sign(0) = 0.
///
/// Shapes: equal. Units: pixels in [0, 1]. A NaN gradient moves nothing.
/// Source: Madry et al. 2018; the projection onto the ball and onto [0, 1] commute, both are boxes.
pub fn pgd_step(x: &mut Tensor, x0: &Tensor, g: &Tensor, eps: f32, step_size: f32) -> Result<()> {
    x0.expect_shape("pgd_step", "x0", x.shape())?;
    g.expect_shape("pgd_step", "g", x.shape())?;
    match x0.on() {
        On::Cpu => {
            let operands =
                x0.cpu::<f32>()?.par_chunks(CHUNK).zip(g.cpu::<f32>()?.par_chunks(CHUNK));
            x.cpu_mut::<f32>()?.par_chunks_mut(CHUNK).zip(operands).for_each(|(x, (x0, g))| {
                for ((x, &x0), &g) in x.iter_mut().zip(x0).zip(g) {
                    *x = step(*x, x0, g, eps, step_size);
                }
            });
        }
        On::Gpu(gpu) => {
            x.make_unique()?;
            Launch::new("pgd_step_f32")
                .elements(x.len().div_ceil(4))
                .arg(x)
                .arg(x0)
                .arg(g)
                .arg(&eps)
                .arg(&step_size)
                .arg(&(x.len() as i64))
                .run(gpu)?;
        }
    }
    Ok(())
}

fn step(x: f32, x0: f32, g: f32, eps: f32, step_size: f32) -> f32 {
    let moved = if g > 0.0 {
        x + step_size
    } else if g < 0.0 {
        x - step_size
    } else {
        x
    };
    clip(moved, clip(x0 - eps, 0.0, 1.0), clip(x0 + eps, 0.0, 1.0))
}

/// By comparisons, as the kernel: `min` and `max` leave the sign of a zero open.
fn clip(x: f32, lo: f32, hi: f32) -> f32 {
    if x < lo {
        lo
    } else if x > hi {
        hi
    } else {
        x
    }
}
