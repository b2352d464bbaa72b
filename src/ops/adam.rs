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
    /// Decay rates β₁ and β₂ of the moments; in f64, so that 1 − β keeps its digits.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// L2 coefficient, on every weight.
    pub weight_decay: f32,
    /// Pull of active weights towards z (dynamic L2).
    pub rho: f32,
    /// This step's number t, from 1.
    pub t: u32,
}

/// The numbers of a step that do not depend on the element.
struct Factors {
    /// `lr / (1 − β₁ᵗ)`.
    step_size: f32,
    /// `√(1 − β₂ᵗ)`.
    root: f32,
    /// `1 − β₁`, β₂, `1 − β₂`.
    first: f32,
    keep: f32,
    second: f32,
}

impl AdamStep {
    /// In f64 before rounding, as PyTorch.
    fn factors(&self) -> Factors {
        let [beta1, beta2] = self.betas;
        let t = f64::from(self.t);
        Factors {
            step_size: (f64::from(self.lr) / (1.0 - beta1.powf(t))) as f32,
            root: (1.0 - beta2.powf(t)).sqrt() as f32,
            first: (1.0 - beta1) as f32,
            keep: beta2 as f32,
            second: (1.0 - beta2) as f32,
        }
    }
}

/// One Adam step of one parameter: `g ← g + weight_decay·w + rho·(w⊙m − z)⊙m`; `m₁ ← m₁ + (1 − β₁)(g − m₁)`;
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
            let factors = step.factors();
            Launch::new("masked_adam_f32")
                .elements(w.len().div_ceil(4))
                .arg(w)
                .arg(first)
                .arg(second)
                .arg(g)
                .arg(&mask)
                .arg(&z)
                .arg(&factors.step_size)
                .arg(&factors.root)
                .arg(&factors.first)
                .arg(&factors.keep)
                .arg(&factors.second)
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
    let factors = step.factors();
    for i in 0..w.len() {
        let active = mask.is_none_or(|mask| mask[i] != 0);
        let mut g = g[i] + step.weight_decay * w[i];
        if let Some(z) = z
            && active
        {
            g += step.rho * (w[i] - z[i]);
        }
        first[i] += factors.first * (g - first[i]);
        second[i] = factors.keep * second[i] + factors.second * g * g;
        let direction = first[i] / (second[i].sqrt() / factors.root + step.eps);
        w[i] = if active { w[i] - factors.step_size * direction } else { 0.0 };
    }
}
