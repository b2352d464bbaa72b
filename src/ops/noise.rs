//! Noise-injected weights (CNI, PNI): `w' = m⊙(w + α⊙η)`, η normal with the deviation of the weights.

use super::elementwise::CHUNK;
use super::mask::apply_mask;
use crate::device::{Gpu, Launch};
use crate::dtype::DType;
use crate::rng::Philox;
use crate::tensor::{On, Tensor};
use crate::{Error, Result, Tape};
use rayon::prelude::*;

/// `w' = m⊙(w + α⊙η)` with `η = σ·n`: `n[i]` is standard normal number i of the stream, σ the deviation of all of w
/// (divided by len − 1; masked zeros count). α is one number a layer (PNI) or an output channel (CNI).
///
/// Shapes: w, w' `[K, ..]` of 2 elements or more; alpha `[1]` or `[K]`; mask like w, u8, without one m = 1.
/// Gradient: `dw = m⊙dw'`, `dα_k = Σ m·dw'·η` over what α_k scales; η and σ are constants. η is drawn again in
/// the backward pass, not kept. The stream must differ from forward to forward. On a GPU w' has the type `storage`, F32
/// or the [`operand_type`](super::operand_type) of the convolution that reads it; on the CPU it is f32.
/// Source: Rakin et al. 2019 (arXiv 1905.13074) section 3; He et al. 2019 (PNI).
pub fn noisy_weight(
    tape: &mut Tape,
    w: &Tensor,
    alpha: &Tensor,
    mask: Option<&Tensor>,
    rng: &Philox,
    storage: DType,
) -> Result<Tensor> {
    check(w, alpha, mask)?;
    let noise =
        Noise { sigma: deviation(w)?, alpha: alpha.clone(), mask: mask.cloned(), rng: *rng };
    let y = noise.forward(w, storage)?;
    let (w_id, alpha_id) = (w.id(), alpha.id());
    tape.push(&[w, alpha], &y, move |dy, gradients| {
        if gradients.wants(alpha_id) {
            gradients.add(alpha_id, noise.backward_alpha(dy)?)?;
        }
        if !gradients.wants(w_id) {
            return Ok(());
        }
        let mut dw = dy.clone();
        if let Some(mask) = &noise.mask {
            apply_mask(&mut dw, mask)?;
        }
        gradients.add(w_id, dw)
    });
    Ok(y)
}

fn check(w: &Tensor, alpha: &Tensor, mask: Option<&Tensor>) -> Result<()> {
    if w.len() < 2 {
        return Err(Error::shape("noisy_weight", "w", "of 2 elements or more", w.shape()));
    }
    let k = w.shape()[0];
    if alpha.shape() != [1] && alpha.shape() != [k] {
        return Err(Error::shape("noisy_weight", "alpha", format!("[1] or [{k}]"), alpha.shape()));
    }
    if let Some(mask) = mask {
        mask.expect_shape("noisy_weight", "mask", w.shape())?;
        mask.expect_dtype("noisy_weight", DType::U8)?;
    }
    Ok(())
}

/// Most blocks of the reductions; their number hangs on the shapes alone, so that the order is fixed.
const BLOCKS: usize = 256;
/// Elements of a block, where there are fewer blocks.
const SHARE: usize = 256 * 16;

/// σ as [1]: one pass over w − w[0] in f64, so that a large mean cancels nothing.
fn deviation(w: &Tensor) -> Result<Tensor> {
    let mut sigma = w.empty_like(&[1], DType::F32)?;
    match w.on() {
        On::Cpu => {
            let w = w.cpu::<f32>()?;
            let chunk = |w_chunk: &[f32]| {
                w_chunk.iter().fold([0.0; 2], |[sum, square], &x| {
                    let off = f64::from(x) - f64::from(w[0]);
                    [sum + off, square + off * off]
                })
            };
            let parts = w.par_chunks(CHUNK).map(chunk).collect::<Vec<_>>();
            let [sum, square] =
                parts.into_iter().fold([0.0; 2], |t, part| [t[0] + part[0], t[1] + part[1]]);
            let n = w.len() as f64;
            let variance = (square - sum * sum / n) / (n - 1.0);
            sigma.cpu_mut::<f32>()?[0] = (variance.max(0.0) as f32).sqrt();
        }
        On::Gpu(gpu) => {
            let blocks = w.len().div_ceil(SHARE).min(BLOCKS);
            // Two doubles a block.
            let partial = w.empty_like(&[blocks, 2, 2], DType::I32)?;
            Launch::new("noise_moments_f32")
                .grid(blocks as u32, 1, 1)
                .arg(w)
                .arg(&partial)
                .arg(&(w.len() as i64))
                .run(gpu)?;
            Launch::new("noise_deviation_f32")
                .arg(&partial)
                .arg(&sigma)
                .arg(&(blocks as i32))
                .arg(&(w.len() as i64))
                .run(gpu)?;
        }
    }
    Ok(sigma)
}

/// One draw for one tensor of weights.
struct Noise {
    sigma: Tensor,
    alpha: Tensor,
    mask: Option<Tensor>,
    rng: Philox,
}

impl Noise {
    fn forward(&self, w: &Tensor, storage: DType) -> Result<Tensor> {
        let on_cpu = matches!(w.on(), On::Cpu);
        let bf16 = storage == DType::Bf16 && !on_cpu;
        let mut y = w.empty_like(w.shape(), if bf16 { DType::Bf16 } else { DType::F32 })?;
        let each = w.len() / self.alpha.len();
        match w.on() {
            On::Cpu => {
                let (w, alpha, sigma) = (w.cpu::<f32>()?, self.alpha.cpu::<f32>()?, self.sigma()?);
                let mask = self.mask()?;
                y.cpu_mut::<f32>()?.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, y)| {
                    let first = chunk * CHUNK;
                    self.each_normal(first..first + y.len(), |i, n| {
                        let active = mask.is_none_or(|mask| mask[i] != 0);
                        let noisy = w[i] + alpha[i / each] * (sigma * n);
                        y[i - first] = if active { noisy } else { 0.0 };
                    });
                });
            }
            On::Gpu(gpu) => self
                .launch(if bf16 { "noise_forward_bf16" } else { "noise_forward_f32" })
                .elements(w.len().div_ceil(4))
                .arg(w)
                .arg(&self.alpha)
                .arg(&y)
                .arg(&(each as i64))
                .arg(&(w.len() as i64))
                .run(gpu)?,
        }
        Ok(y)
    }

    /// `dα_k = Σ m·dy·η` over the elements that α_k scales.
    fn backward_alpha(&self, dy: &Tensor) -> Result<Tensor> {
        let groups = self.alpha.len();
        let each = dy.len() / groups;
        let mut d_alpha = dy.empty_like(&[groups], DType::F32)?;
        match dy.on() {
            On::Cpu => {
                let (dy, sigma, mask) = (dy.cpu::<f32>()?, self.sigma()?, self.mask()?);
                let share = |from: usize, to: usize| {
                    let mut sum = 0.0;
                    self.each_normal(from..to, |i, n| {
                        if mask.is_none_or(|mask| mask[i] != 0) {
                            sum += f64::from(dy[i]) * f64::from(sigma * n);
                        }
                    });
                    sum
                };
                d_alpha.cpu_mut::<f32>()?.par_iter_mut().enumerate().for_each(|(group, out)| {
                    let (first, end) = (group * each, (group + 1) * each);
                    let shares = (first..end).into_par_iter().step_by(CHUNK);
                    let shares = shares.map(|from| share(from, (from + CHUNK).min(end)));
                    *out = shares.collect::<Vec<f64>>().into_iter().sum::<f64>() as f32;
                });
            }
            On::Gpu(gpu) => self.sum_on_gpu(gpu, dy, &d_alpha, each)?,
        }
        Ok(d_alpha)
    }

    fn sum_on_gpu(&self, gpu: &dyn Gpu, dy: &Tensor, d_alpha: &Tensor, each: usize) -> Result<()> {
        let groups = self.alpha.len();
        let slices = each.div_ceil(SHARE).min(BLOCKS);
        let partial = dy.empty_like(&[groups, slices, 2], DType::I32)?;
        self.launch("noise_backward_alpha_f32")
            .grid(slices as u32, groups as u32, 1)
            .arg(dy)
            .arg(&partial)
            .arg(&(each as i64))
            .run(gpu)?;
        Launch::new("noise_backward_alpha_finish_f32")
            .grid(groups.div_ceil(128) as u32, 1, 1)
            .block(128, 1, 1)
            .arg(&partial)
            .arg(d_alpha)
            .arg(&(groups as i32))
            .arg(&(slices as i32))
            .run(gpu)
    }

    /// A launch that draws: its first arguments.
    fn launch(&self, name: &'static str) -> Launch {
        Launch::new(name)
            .arg(&self.sigma)
            .arg(&self.mask.as_ref())
            .arg(&self.rng.key[0])
            .arg(&self.rng.key[1])
            .arg(&self.rng.layer)
            .arg(&self.rng.step)
    }

    fn sigma(&self) -> Result<f32> {
        Ok(self.sigma.cpu::<f32>()?[0])
    }

    fn mask(&self) -> Result<Option<&[u8]>> {
        self.mask.as_ref().map(|mask| mask.cpu()).transpose()
    }

    /// `f(i, n[i])` for i in the range, in order; four numbers a draw.
    fn each_normal(&self, range: std::ops::Range<usize>, mut f: impl FnMut(usize, f32)) {
        for block in range.start / 4..range.end.div_ceil(4) {
            for (i, n) in (4 * block..).zip(self.rng.normals(block as u32)) {
                if range.contains(&i) {
                    f(i, n);
                }
            }
        }
    }
}
