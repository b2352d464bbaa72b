//! The filters of a sparse layer, those with most weights first.

use super::implicit_gemm::{blocks, ints};
use crate::Result;
use crate::device::{Gpu, Launch};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// i32 `[groups, slots]` on w's device: the filters of `w`, `[K, ..]`, by how many of their weights are not 0, the first
/// of equals first. A group has `each` of them in its first slots, -1 where there are no more.
///
/// Source: `kernels/infer_sparse_pack.cu`.
pub(super) fn filter_order(gpu: &dyn Gpu, w: &Tensor, each: usize, slots: usize) -> Result<Tensor> {
    let k = w.shape()[0];
    let groups = k.div_ceil(each);
    let counts = w.empty_like(&[k], DType::I32)?;
    let launch = Launch::new("infer_sparse_pack_count").grid(blocks(k, 8)?, 1, 1);
    ints(launch.arg(w).arg(&counts), &[k, w.len() / k.max(1)])?.run(gpu)?;
    let rows = w.empty_like(&[groups, slots], DType::I32)?;
    let launch = Launch::new("infer_sparse_pack_order").grid(blocks(rows.len(), 256)?, 1, 1);
    ints(launch.arg(&counts).arg(&rows), &[k, groups, each, slots])?.run(gpu)?;
    Ok(rows)
}
