//! Operations on masks: counts, norms, means over active weights, and applying a mask.

use super::elementwise::CHUNK;
use crate::Result;
use crate::device::Launch;
use crate::dtype::DType;
use crate::tensor::{On, Tensor};
use rayon::prelude::*;

/// Blocks of a reduction over elements; each leaves one f64, added in order on the host.
const BLOCKS: usize = 64;

/// Number of ones.
///
/// Shapes: any, u8 of 0 and 1.
pub fn mask_count(mask: &Tensor) -> Result<usize> {
    mask.expect_dtype("mask_count", DType::U8)?;
    match mask.on() {
        On::Cpu => Ok(mask.cpu::<u8>()?.iter().filter(|&&m| m != 0).count()),
        On::Gpu(gpu) => {
            let count = Tensor::zeros(&[1], DType::I32, &mask.device())?;
            Launch::new("mask_count_u8")
                .elements(mask.len().div_ceil(16))
                .arg(mask)
                .arg(&count)
                .arg(&(mask.len() as i64))
                .run(gpu)?;
            Ok(count.to_vec::<i32>()?[0] as u32 as usize)
        }
    }
}

/// Mean of |x| over the positions where the mask is one, in f64; 0 where there are none.
///
/// Shapes: equal; x f32, mask u8.
pub fn masked_abs_mean(x: &Tensor, mask: &Tensor) -> Result<f64> {
    check("masked_abs_mean", x, mask)?;
    let active = mask_count(mask)?;
    if active == 0 {
        return Ok(0.0);
    }
    let sum = match x.on() {
        On::Cpu => {
            let mask = mask.cpu::<u8>()?;
            ordered_sum(x.cpu()?, |i, x| if mask[i] != 0 { f64::from(x.abs()) } else { 0.0 })
        }
        On::Gpu(gpu) => sum_of_blocks(x, |partial| {
            Launch::new("masked_abs_sum_f32")
                .grid(BLOCKS as u32, 1, 1)
                .arg(x)
                .arg(mask)
                .arg(partial)
                .arg(&(x.len() as i64))
                .run(gpu)
        })?,
    };
    Ok(sum / active as f64)
}

/// `Σ (w⊙m − z)²` in f64. The dynamic-L2 term is rho/2 times this sum.
///
/// Shapes: equal; w, z f32, mask u8.
pub fn squared_distance(w: &Tensor, mask: &Tensor, z: &Tensor) -> Result<f64> {
    check("squared_distance", w, mask)?;
    z.expect_shape("squared_distance", "z", w.shape())?;
    match w.on() {
        On::Cpu => {
            let (mask, z) = (mask.cpu::<u8>()?, z.cpu::<f32>()?);
            Ok(ordered_sum(w.cpu()?, |i, w| {
                let kept = if mask[i] != 0 { w } else { 0.0 };
                (f64::from(kept) - f64::from(z[i])).powi(2)
            }))
        }
        On::Gpu(gpu) => sum_of_blocks(w, |partial| {
            Launch::new("squared_distance_f32")
                .grid(BLOCKS as u32, 1, 1)
                .arg(w)
                .arg(mask)
                .arg(z)
                .arg(partial)
                .arg(&(w.len() as i64))
                .run(gpu)
        }),
    }
}

/// `w ← w⊙mask`: exactly +0 where the mask is 0.
///
/// Shapes: equal; w f32, mask u8.
pub fn apply_mask(w: &mut Tensor, mask: &Tensor) -> Result<()> {
    check("apply_mask", w, mask)?;
    match mask.on() {
        On::Cpu => {
            let mask = mask.cpu::<u8>()?.par_chunks(CHUNK);
            w.cpu_mut::<f32>()?.par_chunks_mut(CHUNK).zip(mask).for_each(|(w, mask)| {
                w.iter_mut().zip(mask).filter(|(_, m)| **m == 0).for_each(|(w, _)| *w = 0.0);
            });
        }
        On::Gpu(gpu) => {
            w.make_unique()?;
            Launch::new("apply_mask_f32")
                .elements(w.len().div_ceil(4))
                .arg(w)
                .arg(mask)
                .arg(&(w.len() as i64))
                .run(gpu)?;
        }
    }
    Ok(())
}

/// Squared Frobenius norm of every input channel: `Σ_{k,r,s} w[k, r, s, c]²` for each c, in f64.
///
/// Shapes: w [K, R, S, C] or [K, C].
pub fn channel_norms(w: &Tensor) -> Result<Vec<f64>> {
    let c = w.shape().last().copied().unwrap_or(0);
    norms(w, c, 1, c)
}

/// Squared Frobenius norm of every filter: `Σ_{r,s,c} w[k, r, s, c]²` for each k, in f64.
///
/// Shapes: w [K, R, S, C] or [K, C].
pub fn filter_norms(w: &Tensor) -> Result<Vec<f64>> {
    let k = w.shape().first().copied().unwrap_or(0);
    let each = w.len().checked_div(k).unwrap_or(0);
    norms(w, k, each, 1)
}

/// For each of `groups`: the sum of squares of the elements `group·offset + i·stride`.
fn norms(w: &Tensor, groups: usize, offset: usize, stride: usize) -> Result<Vec<f64>> {
    if w.is_empty() {
        return Ok(vec![0.0; groups]);
    }
    let each = w.len() / groups;
    match w.on() {
        On::Cpu => {
            let w = w.cpu::<f32>()?;
            let norm = |group: usize| {
                (0..each).map(|i| f64::from(w[group * offset + i * stride]).powi(2)).sum()
            };
            Ok((0..groups).into_par_iter().map(norm).collect())
        }
        On::Gpu(gpu) => {
            let out = w.empty_like(&[2 * groups], DType::I32)?;
            Launch::new("squared_norms_f32")
                .grid(groups as u32, 1, 1)
                .arg(w)
                .arg(&out)
                .arg(&(each as i64))
                .arg(&(offset as i64))
                .arg(&(stride as i64))
                .run(gpu)?;
            doubles(&out)
        }
    }
}

fn check(op: &'static str, x: &Tensor, mask: &Tensor) -> Result<()> {
    mask.expect_shape(op, "mask", x.shape())?;
    mask.expect_dtype(op, DType::U8)?;
    x.expect_dtype(op, DType::F32)
}

/// Σ f(i, x[i]): chunks in parallel, in each eight running sums, all added in order.
fn ordered_sum(x: &[f32], f: impl Fn(usize, f32) -> f64 + Sync) -> f64 {
    let chunk = |(chunk, x): (usize, &[f32])| {
        let mut sums = [0.0; 8];
        for (block, x) in x.chunks(8).enumerate() {
            let first = chunk * CHUNK + 8 * block;
            sums.iter_mut().zip(x).enumerate().for_each(|(i, (sum, &x))| *sum += f(first + i, x));
        }
        sums.into_iter().sum::<f64>()
    };
    let sums = x.par_chunks(CHUNK).enumerate().map(chunk).collect::<Vec<_>>();
    sums.into_iter().sum()
}

/// The sum of the [`BLOCKS`] numbers that `launch` leaves in the tensor it is given.
fn sum_of_blocks(x: &Tensor, launch: impl FnOnce(&Tensor) -> Result<()>) -> Result<f64> {
    let partial = x.empty_like(&[2 * BLOCKS], DType::I32)?;
    launch(&partial)?;
    Ok(doubles(&partial)?.into_iter().sum())
}

/// The f64 that a kernel wrote into a tensor of twice as many i32.
fn doubles(words: &Tensor) -> Result<Vec<f64>> {
    Ok(bytemuck::pod_collect_to_vec(&words.to_vec::<i32>()?))
}
