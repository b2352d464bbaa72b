//! One step of SGD of all parameters, which keeps pruned weights at exactly zero.

use super::elementwise::CHUNK;
use crate::device::{Device, Gpu, Launch};
use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::{Error, Result};
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
}

/// One parameter in a step of [`masked_sgd`].
pub struct SgdParameter<'a> {
    /// The weights.
    pub w: &'a mut Tensor,
    /// Their momentum.
    pub v: &'a mut Tensor,
    /// Their gradient.
    pub g: &'a Tensor,
    /// 1 where a weight is active; absent: everywhere.
    pub mask: Option<&'a Tensor>,
    /// What active weights are pulled to (dynamic L2); absent: no pull.
    pub z: Option<&'a Tensor>,
    /// Strength of the pull.
    pub rho: f32,
    /// The first step of this parameter: v starts as the gradient.
    pub first: bool,
}

/// One SGD step of all parameters. On a GPU each launch takes 16 of them.
///
/// `g ← g + weight_decay·w + rho·(w⊙m − z)⊙m`; `v ← first ? g : momentum·v + g`;
/// `w ← m⊙(w − lr·(nesterov ? g + momentum·v : v))`.
///
/// v is not masked, because regrowth ranks the momentum at pruned positions. Without a mask m = 1; without z the pull is absent.
/// Shapes: a parameter's w, v, g, z equal, f32; mask the same, u8 of 0 and 1. All on one device. A [`crate::ErrorKind::Shape`]
/// error leaves every parameter unchanged.
/// Source: Sutskever et al. 2013 eq. 3-4 in PyTorch's form; Kundu et al. 2021 eq. 4.
pub fn masked_sgd(parameters: &mut [SgdParameter<'_>], step: &SgdStep) -> Result<()> {
    const OP: &str = "masked_sgd";
    let Some(first) = parameters.first() else { return Ok(()) };
    let device = first.w.device();
    for SgdParameter { w, v, g, mask, z, .. } in &*parameters {
        v.expect_shape(OP, "v", w.shape())?;
        g.expect_shape(OP, "g", w.shape())?;
        check_mask_and_z(OP, w, *mask, *z)?;
        for operand in [&**w, &**v, *g].into_iter().chain(*z) {
            operand.expect_dtype(OP, DType::F32)?;
        }
        let operands =
            [(Some(&**w), "w"), (Some(&**v), "v"), (Some(*g), "g"), (*mask, "mask"), (*z, "z")];
        for (operand, what) in operands {
            let Some(operand) = operand else { continue };
            if operand.device() != device {
                let message =
                    format!("{OP}: {what} must be there too, it is on {}", operand.device());
                return Err(Error::device(device.to_string(), message));
            }
        }
    }
    match &device {
        Device::Cpu => parameters.iter_mut().try_for_each(|parameter| on_cpu(parameter, step)),
        Device::Gpu(gpu) => on_gpu(gpu.as_ref(), parameters, step),
    }
}

fn on_cpu(parameter: &mut SgdParameter<'_>, step: &SgdStep) -> Result<()> {
    let g = parameter.g.cpu::<f32>()?;
    let mask = parameter.mask.map(|mask| mask.cpu::<u8>()).transpose()?;
    let z = parameter.z.map(|z| z.cpu::<f32>()).transpose()?;
    let update = Update { step, rho: parameter.rho, first: parameter.first };
    let w = parameter.w.cpu_mut::<f32>()?.par_chunks_mut(CHUNK);
    w.zip(parameter.v.cpu_mut::<f32>()?.par_chunks_mut(CHUNK)).enumerate().for_each(
        |(i, (w, v))| {
            let here = i * CHUNK..i * CHUNK + w.len();
            let (mask, z) = (mask.map(|m| &m[here.clone()]), z.map(|z| &z[here.clone()]));
            update.run(w, v, &g[here], mask, z);
        },
    );
    Ok(())
}

/// Parameters of a launch, and elements of a block, as in `kernels/masked_sgd.cu`.
const TOGETHER: usize = 16;
const SHARE: usize = 8192;

fn on_gpu(gpu: &dyn Gpu, parameters: &mut [SgdParameter<'_>], step: &SgdStep) -> Result<()> {
    for parameters in parameters.chunks_mut(TOGETHER) {
        let mut launch = Launch::new("masked_sgd_f32")
            .arg(&step.lr)
            .arg(&step.momentum)
            .arg(&i32::from(step.nesterov))
            .arg(&step.weight_decay);
        let mut blocks = 0;
        for SgdParameter { w, v, g, mask, z, rho, first } in &mut *parameters {
            w.make_unique()?;
            v.make_unique()?;
            let operands = launch.arg(&**w).arg(&**v).arg(*g).arg(mask).arg(z);
            launch = operands.arg(&(g.len() as i64)).arg(rho).arg(&i32::from(*first));
            blocks += g.len().div_ceil(SHARE);
        }
        for _ in parameters.len()..TOGETHER {
            launch = (0..5).fold(launch, |launch, _| launch.arg(&None::<&Tensor>));
            launch = launch.arg(&0i64).arg(&0.0f32).arg(&0i32);
        }
        let blocks = u32::try_from(blocks).map_err(|_| {
            Error::kernel("masked_sgd", format!("{blocks} blocks do not fit 32 bits"))
        })?;
        if blocks > 0 {
            launch.grid(blocks, 1, 1).run(gpu)?;
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

/// A step of one parameter on the CPU.
struct Update<'a> {
    step: &'a SgdStep,
    rho: f32,
    first: bool,
}

impl Update<'_> {
    fn run(&self, w: &mut [f32], v: &mut [f32], g: &[f32], mask: Option<&[u8]>, z: Option<&[f32]>) {
        let pull = |g: f32, w: f32, z: f32| g + self.rho * (w - z);
        match (mask, z) {
            (None, None) => self.each(w, v, g, |_| true, |_, g, _| g),
            (None, Some(z)) => self.each(w, v, g, |_| true, |i, g, w| pull(g, w, z[i])),
            (Some(m), None) => self.each(w, v, g, |i| m[i] != 0, |_, g, _| g),
            (Some(m), Some(z)) => {
                let pulled = |i: usize, g, w| if m[i] != 0 { pull(g, w, z[i]) } else { g };
                self.each(w, v, g, |i| m[i] != 0, pulled);
            }
        }
    }

    /// The update with `active(i)` for the mask and `pulled(i, g, w)` for the gradient with its pull: a loop for each
    /// combination, so that none asks in every element whether there is a mask.
    fn each(
        &self,
        w: &mut [f32],
        v: &mut [f32],
        g: &[f32],
        active: impl Fn(usize) -> bool,
        pulled: impl Fn(usize, f32, f32) -> f32,
    ) {
        let step = self.step;
        for (i, ((w, v), &g)) in w.iter_mut().zip(v).zip(g).enumerate() {
            let g = pulled(i, g + step.weight_decay * *w, *w);
            *v = if self.first { g } else { step.momentum * *v + g };
            let direction = if step.nesterov { g + step.momentum * *v } else { *v };
            *w = if active(i) { *w - step.lr * direction } else { 0.0 };
        }
    }
}
