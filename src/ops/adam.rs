//! One step of Adam that keeps pruned weights at exactly zero.

use super::elementwise::CHUNK;
use super::masked_sgd::check_mask_and_z;
use crate::Result;
use crate::device::Launch;
use crate::tensor::{On, Tensor};
use rayon::prelude::*;

/// The numbers of one step of [`masked_adam`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay rates of the moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// L2 coefficient, on every weight.
    pub weight_decay: f32,
    /// Pull of active weights towards z (dynamic L2).
    pub rho: f32,
    /// This step's number t, from 1.
    pub t: u32,
}

impl AdamStep {
    /// `lr / (1 − β₁ᵗ)` and `√(1 − β₂ᵗ)`, in f64 as PyTorch.
    fn corrections(&self) -> [f32; 2] {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(f64::from(self.t));
        [
            (f64::from(self.lr) / correction(self.betas[0])) as f32,
            correction(self.betas[1]).sqrt() as f32,
        ]
    }
}

/// One pass over a parameter: `g ← g + weight_decay·w + rho·(w⊙m − z)⊙m`; `m₁ ← m₁ + (1 − β₁)(g − m₁)`;
/// `m₂ ← β₂·m₂ + (1 − β₂)·g²`; `w ← m⊙(w − lr/(1 − β₁ᵗ) · m₁ / (√m₂/√(1 − β₂ᵗ) + eps))`.
///
/// The moments are not masked. Without a mask m = 1; without z the pull is absent.
/// Shapes: w, m₁ (`first`), m₂ (`second`), g, z equal, f32; mask the same, u8 of 0 and 1.
/// Source: Kingma & Ba 2015, algorithm 1, in PyTorch's form.
pub fn masked_adam(
    w: &mut Tensor,
    [first, second]: [&mut Tensor; 2],
    g: &Tensor,
    mask: Option<&Tensor>,
    z: Option<&Tensor>,
    step: &AdamStep,
) -> Result<()> {
    first.expect_shape("masked_adam", "first", w.shape())?;
    second.expect_shape("masked_adam", "second", w.shape())?;
    g.expect_shape("masked_adam", "g", w.shape())?;
    check_mask_and_z("masked_adam", w, mask, z)?;
    match g.on() {
        On::Cpu => {
            let g = g.cpu::<f32>()?;
            let mask = mask.map(|mask| mask.cpu::<u8>()).transpose()?;
            let z = z.map(|z| z.cpu::<f32>()).transpose()?;
            let moments = first.cpu_mut::<f32>()?.par_chunks_mut(CHUNK);
            let moments = moments.zip(second.cpu_mut::<f32>()?.par_chunks_mut(CHUNK));
            let chunks = w.cpu_mut::<f32>()?.par_chunks_mut(CHUNK).zip(moments);
            chunks.enumerate().for_each(|(i, (w, moments))| {
                let here = i * CHUNK..i * CHUNK + w.len();
                let (mask, z) = (mask.map(|m| &m[here.clone()]), z.map(|z| &z[here.clone()]));
                update(step, w, moments, &g[here], mask, z);
            });
        }
        On::Gpu(gpu) => {
            [&mut *w, first, second].into_iter().try_for_each(Tensor::make_unique)?;
            let [step_size, root] = step.corrections();
            Launch::new("masked_adam_f32")
                .elements(w.len().div_ceil(4))
                .arg(w)
                .arg(first)
                .arg(second)
                .arg(g)
                .arg(&mask)
                .arg(&z)
                .arg(&step_size)
                .arg(&root)
                .arg(&step.betas[0])
                .arg(&step.betas[1])
                .arg(&step.eps)
                .arg(&step.weight_decay)
                .arg(&step.rho)
                .arg(&(w.len() as i64))
                .run(gpu)?;
        }
    }
    Ok(())
}

fn update(
    step: &AdamStep,
    w: &mut [f32],
    (first, second): (&mut [f32], &mut [f32]),
    g: &[f32],
    mask: Option<&[u8]>,
    z: Option<&[f32]>,
) {
    let ([step_size, root], [beta1, beta2]) = (step.corrections(), step.betas);
    for i in 0..w.len() {
        let active = mask.is_none_or(|mask| mask[i] != 0);
        let mut g = g[i] + step.weight_decay * w[i];
        if let Some(z) = z
            && active
        {
            g += step.rho * (w[i] - z[i]);
        }
        first[i] += (1.0 - beta1) * (g - first[i]);
        second[i] = beta2 * second[i] + (1.0 - beta2) * g * g;
        let direction = first[i] / (second[i].sqrt() / root + step.eps);
        w[i] = if active { w[i] - step_size * direction } else { 0.0 };
    }
}
