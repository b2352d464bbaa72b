//! The outputs that a thread block of the sparse convolutions computes, and the inputs that it holds in shared memory:
//! `PlaneTile` of `kernels/common/image_planes.cuh`.

use crate::cpu::conv_shape::ConvShape;

/// One tap of one pixel of a block of images.
pub(super) const ROW_BYTES: usize = 16;
/// Shared memory for one chunk of channels. Two chunks, and two blocks of threads on a multiprocessor, fit 227 KiB.
pub(super) const CHUNK_BYTES: usize = 48 << 10;
/// Blocks of threads below which a launch is cut finer: two for each multiprocessor of a large GPU.
pub(super) const FEW_BLOCKS: usize = 264;
/// What is wanted of a filter for which there is no tile.
pub(super) const FITS: &str =
    "of fewer taps or a smaller stride: the inputs of a tile of outputs fit 48 KiB";

/// Outputs of a block of threads, and their inputs in shared memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PlaneTile {
    /// Blocks of images: 2^this.
    pub(super) block_bits: usize,
    pub(super) p: usize,
    pub(super) q: usize,
    /// Inputs of these outputs, with the border.
    pub(super) height: usize,
    pub(super) width: usize,
    /// 16-byte rows from one block of images to the next.
    pub(super) sheet: usize,
    /// 16-byte rows from channel to channel.
    pub(super) plane: usize,
    /// Channels at a time, and how often.
    pub(super) chunk: usize,
    pub(super) chunks: usize,
}

impl PlaneTile {
    /// 2^`block_bits` blocks of images of `p` × `q` outputs, all channels in one chunk, nothing between their rows.
    pub(super) fn new(shape: &ConvShape, block_bits: usize, [p, q]: [usize; 2]) -> Self {
        let height = (p - 1) * shape.stride + shape.r;
        let width = (q - 1) * shape.stride + shape.s;
        let sheet = height * width;
        let (plane, chunk) = (sheet << block_bits, shape.c);
        Self { block_bits, p, q, height, width, sheet, plane, chunk, chunks: 1 }
    }

    /// In as few chunks as shared memory allows. None where not even one channel fits.
    pub(super) fn in_chunks(self, shape: &ConvShape) -> Option<Self> {
        let most = CHUNK_BYTES / (self.plane * ROW_BYTES);
        if most == 0 {
            return None;
        }
        let chunks = shape.c.div_ceil(most).max(1);
        Some(Self { chunk: shape.c.div_ceil(chunks), chunks, ..self })
    }

    /// Bytes of shared memory: the chunk that is multiplied and the one that is loaded.
    pub(super) fn shared_bytes(&self) -> usize {
        self.chunks.min(2) * self.chunk * self.plane * ROW_BYTES
    }

    /// Tiles of a whole output.
    pub(super) fn count(&self, image_blocks: usize, shape: &ConvShape) -> usize {
        let sheets = shape.p().div_ceil(self.p) * shape.q().div_ceil(self.q);
        image_blocks.div_ceil(1 << self.block_bits) * sheets
    }

    /// As kernels take it.
    pub(super) fn arguments(&self) -> [usize; 7] {
        [self.block_bits, self.p, self.q, self.height, self.width, self.sheet, self.plane]
    }
}
