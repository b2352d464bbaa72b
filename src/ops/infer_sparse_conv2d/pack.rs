//! The format of `kernels/infer_sparse_conv2d.cu`: groups of filters, their columns in blocks, operands in lane order.
//! `kernels/infer_sparse_pack.cu` builds it on the device.

use crate::cpu::conv_shape::ConvShape;
use crate::device::Launch;
use crate::dtype::DType;
use crate::ops::filter_order::filter_order;
use crate::ops::implicit_gemm::{blocks, int, ints};
use crate::ops::infer_planes::on_gpu;
use crate::ops::plane_tile::{CHUNK_BYTES, PlaneTile, ROW_BYTES};
use crate::tensor::Tensor;
use crate::{Error, Result};

pub(super) const OP: &str = "infer_sparse_conv2d";
/// Filters of a group.
pub(super) const GROUP: usize = 32;
/// Columns of one access to shared memory.
pub(super) const OCTET: usize = 8;
/// Images side by side in a plane: 16 bytes.
pub(super) const IMAGES: usize = 8;
/// Outputs of a block of threads, times 8 images.
const OUTPUTS: usize = 16;

/// How the columns of a group of 32 filters that are not empty are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SparseProduct {
    /// Every filter by every such column: `mma.m16n8k16`. For masks that keep more than about a third.
    Dense,
    /// 2:4 sparse, the columns put in an order for which that holds: `mma.sp.m16n8k32`. Half the steps of the tensor
    /// core; a full mask takes twice the columns.
    TwoFour,
}

impl SparseProduct {
    /// Columns of a block.
    pub(super) fn columns(self) -> usize {
        match self {
            Self::Dense => 16,
            Self::TwoFour => 32,
        }
    }
}

/// None where not even one channel fits shared memory.
pub(super) fn tile(shape: &ConvShape) -> Option<PlaneTile> {
    let extent = |outputs: usize| if outputs > 2 { 4 } else { 2 };
    let (p, q) = (extent(shape.p()), extent(shape.q()));
    let tile = PlaneTile::new(shape, (OUTPUTS / (p * q)).ilog2() as usize, [p, q]);
    // Odd, so that channels spread over the banks.
    PlaneTile { plane: tile.plane | 1, ..tile }.in_chunks(shape)
}

/// A packed filter on the device.
pub(super) struct Packed {
    /// i32, filter of each row of each group, -1 for none.
    pub(super) rows: Tensor,
    /// i32, for each group the first block of each chunk, and the end.
    pub(super) starts: Tensor,
    /// i32, the words of each block.
    pub(super) records: Tensor,
    pub(super) kept: usize,
    /// Columns that some filter of their group keeps, over all groups.
    pub(super) columns: usize,
    pub(super) blocks: usize,
    pub(super) banks: BankCount,
}

/// Accesses of eight columns each to shared memory, for one pixel.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BankCount {
    /// Accesses.
    pub accesses: usize,
    /// How often these take a cycle more because two of their columns lie in one bank group.
    pub conflicts: usize,
}

// What `kernels/infer_sparse_pack.cu` has room for: each column of a chunk takes a row of a tile at least.
const _: () = assert!(CHUNK_BYTES / ROW_BYTES <= 3072);

/// Kernels, and words of a record.
fn kernels(product: SparseProduct) -> ([&'static str; 2], usize) {
    match product {
        SparseProduct::Dense => {
            (["infer_sparse_pack_arrange_dense", "infer_sparse_pack_records_dense"], 272)
        }
        SparseProduct::TwoFour => {
            (["infer_sparse_pack_arrange_two_four", "infer_sparse_pack_records_two_four"], 320)
        }
    }
}

/// The nonzero weights of the filters `w`, `[k, r, s, c]` on a GPU, by the rules of `kernels/infer_sparse_pack.cu`. Four
/// numbers of each chunk of each group come back: nobody knows before how many records there will be.
pub(super) fn pack(
    w: &Tensor,
    shape: &ConvShape,
    tile: &PlaneTile,
    product: SparseProduct,
) -> Result<Packed> {
    let gpu = on_gpu(OP, w)?;
    let (taps, groups) = (shape.r * shape.s, shape.k.div_ceil(GROUP));
    if groups > 65_535 {
        return Err(Error::shape(OP, "w", "of fewer filters", w.shape()));
    }
    let rows = filter_order(gpu, w, GROUP, GROUP)?;

    // Each octet takes a column at least; without the rule of 2:4 each block all that it has places for.
    let least = match product {
        SparseProduct::Dense => product.columns(),
        SparseProduct::TwoFour => product.columns() / OCTET,
    };
    let room = (taps * tile.chunk).div_ceil(least) * product.columns();
    let chunks = groups * tile.chunks;
    let places = w.empty_like(&[chunks, room, 2], DType::I32)?;
    let statistics = w.empty_like(&[chunks, 4], DType::I32)?;
    let ([arrange, write], words) = kernels(product);
    let across = blocks(tile.chunks, 1)?;
    let grid = |name| Launch::new(name).grid(across, groups as u32, 1);
    let geometry = [room, taps, shape.s, shape.c, tile.chunk, tile.width, tile.plane];
    let launch = grid(arrange).arg(w).arg(&rows).arg(&places).arg(&statistics);
    ints(launch, &geometry)?.run(gpu)?;

    let (mut starts, mut total) = (Vec::new(), [0; 4]);
    for of_group in statistics.to_vec::<i32>()?.chunks_exact(4 * tile.chunks) {
        for of_chunk in of_group.chunks_exact(4) {
            starts.push(int(total[0])?);
            total.iter_mut().zip(of_chunk).for_each(|(sum, &more)| *sum += more as usize);
        }
        starts.push(int(total[0])?);
    }
    let [blocks, columns, conflicts, kept] = total;
    let len = starts.len();
    let starts = Tensor::from_vec(starts, &[len], &w.device())?;
    let records = w.empty_like(&[blocks * words], DType::I32)?;
    if blocks > 0 {
        let launch = grid(write).arg(w).arg(&rows).arg(&places).arg(&starts).arg(&records);
        ints(launch, &geometry)?.run(gpu)?;
    }
    let banks = BankCount { accesses: blocks * product.columns() / OCTET, conflicts };
    Ok(Packed { rows, starts, records, kept, columns, blocks, banks })
}
