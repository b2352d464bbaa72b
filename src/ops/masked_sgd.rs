//! One step of SGD that keeps pruned weights at exactly zero.

use super::elementwise::CHUNK;
use crate::Result;
use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use rayon::prelude::*;

/// The numbers of one step of [`masked_sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    /// Learning rate.
    pub lr: f32,
    /// Momentum μ.
    pub momentum: f32,
    /// Whether the step looks ahead along the momentum (Nesterov, PyTorch's form).
    pub nesterov: bool,
    /// L2 coefficient, on every weight.
    pub weight_decay: f32,
    /// Pull of active weights towards z (dynamic L2).
    pub rho: f32,
    /// The first step of this parameter: v starts as the gradient.
    pub first: bool,
}

/// One pass over a parameter:
/// `g ← g + weight_decay·w + rho·(w⊙m − z)⊙m`; `v ← first ? g : momentum·v + g`;
/// `w ← m⊙(w − lr·(nesterov ? g + momentum·v : v))`.
///
/// v is not masked: regrowth ranks it at pruned positions. Without a mask m = 1; without z the pull is absent.
/// Shapes: w, v, g, z equal, f32; mask the same, u8 of 0 and 1.
/// Source: Sutskever et al. 2013 eq. 3-4 in PyTorch's form; Kundu et al. 2021 eq. 4.
pub fn masked_sgd(
    w: &mut Tensor,
    v: &mut Tensor,
    g: &Tensor,
    mask: Option<&Tensor>,
    z: Option<&Tensor>,
    step: &SgdStep,
) -> Result<()> {
    v.expect_shape("masked_sgd", "v", w.shape())?;
    g.expect_shape("masked_sgd", "g", w.shape())?;
    check_mask_and_z("masked_sgd", w, mask, z)?;
    match g.on() {
        On::Cpu => {
            let g = g.cpu::<f32>()?;
            let mask = mask.map(|mask| mask.cpu::<u8>()).transpose()?;
            let z = z.map(|z| z.cpu::<f32>()).transpose()?;
            let w = w.cpu_mut::<f32>()?.par_chunks_mut(CHUNK);
            w.zip(v.cpu_mut::<f32>()?.par_chunks_mut(CHUNK)).enumerate().for_each(|(i, (w, v))| {
                let here = i * CHUNK..i * CHUNK + w.len();
                let (mask, z) = (mask.map(|m| &m[here.clone()]), z.map(|z| &z[here.clone()]));
                update(step, w, v, &g[here], mask, z);
            });
        }
        On::Gpu(gpu) => {
            w.make_unique()?;
            v.make_unique()?;
            Launch::new("masked_sgd_f32")
                .elements(w.len().div_ceil(4))
                .arg(w)
                .arg(v)
                .arg(g)
                .arg(&mask)
                .arg(&z)
                .arg(&step.lr)
                .arg(&step.momentum)
                .arg(&i32::from(step.nesterov))
                .arg(&step.weight_decay)
                .arg(&step.rho)
                .arg(&i32::from(step.first))
                .arg(&(w.len() as i64))
                .run(gpu)?;
        }
    }
    Ok(())
}

/// Checks the optional operands that optimisers share.
pub(super) fn check_mask_and_z(
    op: &'static str,
    w: &Tensor,
    mask: Option<&Tensor>,
    z: Option<&Tensor>,
) -> Result<()> {
    if let Some(mask) = mask {
        mask.expect_shape(op, "mask", w.shape())?;
        mask.expect_dtype(op, DType::U8)?;
    }
    z.map_or(Ok(()), |z| z.expect_shape(op, "z", w.shape()))
}

fn update(
    step: &SgdStep,
    w: &mut [f32],
    v: &mut [f32],
    g: &[f32],
    mask: Option<&[u8]>,
    z: Option<&[f32]>,
) {
    let pull = |g: f32, w: f32, z: f32| g + step.rho * (w - z);
    match (mask, z) {
        (None, None) => each(step, w, v, g, |_| true, |_, g, _| g),
        (None, Some(z)) => each(step, w, v, g, |_| true, |i, g, w| pull(g, w, z[i])),
        (Some(m), None) => each(step, w, v, g, |i| m[i] != 0, |_, g, _| g),
        (Some(m), Some(z)) => each(
            step,
            w,
            v,
            g,
            |i| m[i] != 0,
            |i, g, w| if m[i] != 0 { pull(g, w, z[i]) } else { g },
        ),
    }
}

/// The update with `active(i)` for the mask and `pulled(i, g, w)` for the gradient with its pull: a loop for each
/// combination, so that none asks in every element whether there is a mask.
fn each(
    step: &SgdStep,
    w: &mut [f32],
    v: &mut [f32],
    g: &[f32],
    active: impl Fn(usize) -> bool,
    pulled: impl Fn(usize, f32, f32) -> f32,
) {
    for (i, ((w, v), &g)) in w.iter_mut().zip(v).zip(g).enumerate() {
        let g = pulled(i, g + step.weight_decay * *w, *w);
        *v = if step.first { g } else { step.momentum * *v + g };
        let direction = if step.nesterov { g + step.momentum * *v } else { *v };
        *w = if active(i) { *w - step.lr * direction } else { 0.0 };
    }
}
