//! Pruning and regrowing by rank: radix select on the bits of |x| with the index as the tie-break.

use crate::Result;
use crate::device::{Gpu, Launch};
use crate::dtype::DType;
use crate::tensor::{On, Tensor};

/// Sets the mask to 0 at the `count` active positions of smallest |w|, or at all active positions where there are fewer. Of
/// equal ones the lower index goes first. A NaN ranks above every number.
///
/// Shapes: equal; mask u8 of 0 and 1, w f32. No host round trip on a GPU.
pub fn prune_smallest(mask: &mut Tensor, w: &Tensor, count: usize) -> Result<()> {
    Selection { op: "prune_smallest", from: 1, largest: false }.run(mask, w, count)
}

/// Sets the mask to 1 at the `count` inactive positions of largest |score|, or at all inactive positions where there are
/// fewer. Of equal ones the lower index goes first. A NaN ranks above every number.
///
/// Shapes: equal; mask u8 of 0 and 1, score f32. No host round trip on a GPU.
pub fn regrow_largest(mask: &mut Tensor, score: &Tensor, count: usize) -> Result<()> {
    Selection { op: "regrow_largest", from: 0, largest: true }.run(mask, score, count)
}

/// Flips mask positions of value `from`, ranked by |x| from one end.
struct Selection {
    op: &'static str,
    from: u8,
    largest: bool,
}

/// Bits of one digit: a block's histogram is 2048 counters in shared memory.
const DIGIT: u32 = 11;

impl Selection {
    fn run(&self, mask: &mut Tensor, x: &Tensor, count: usize) -> Result<()> {
        mask.expect_shape(self.op, "mask", x.shape())?;
        mask.expect_dtype(self.op, DType::U8)?;
        x.expect_dtype(self.op, DType::F32)?;
        if count == 0 || x.is_empty() {
            return Ok(());
        }
        match x.on() {
            On::Cpu => self.on_cpu(mask.cpu_mut()?, x.cpu()?, count),
            On::Gpu(gpu) => {
                mask.make_unique()?;
                self.on_gpu(gpu, mask, x, count)?;
            }
        }
        Ok(())
    }

    fn on_cpu(&self, mask: &mut [u8], x: &[f32], count: usize) {
        let key = |i: usize| {
            let magnitude = x[i].to_bits() & 0x7fff_ffff;
            (if self.largest { !magnitude } else { magnitude }, i)
        };
        let mut candidates =
            (0..x.len()).filter(|&i| mask[i] == self.from).map(key).collect::<Vec<_>>();
        if count < candidates.len() {
            candidates.select_nth_unstable(count);
            candidates.truncate(count);
        }
        candidates.into_iter().for_each(|(_, i)| mask[i] = 1 - self.from);
    }

    /// The candidate of rank `count` by digits from the top of (31 bits of |x|, index), then one pass that flips.
    fn on_gpu(&self, gpu: &dyn Gpu, mask: &Tensor, x: &Tensor, count: usize) -> Result<()> {
        let index_bits = usize::BITS - (x.len() - 1).leading_zeros();
        let histogram = Tensor::zeros(&[1 << DIGIT], DType::I32, &x.device())?;
        // prefix (u64), rank left (u64).
        let state = x.empty_like(&[4], DType::I32)?;
        let mut above = 31 + index_bits;
        let mut left = count as u64;
        while above > 0 {
            let shift = above.saturating_sub(DIGIT);
            let digit = [above - shift, shift].map(|bits| bits as i32);
            Launch::new("topk_histogram_f32")
                .grid(x.len().div_ceil(256 * 8).min(512) as u32, 1, 1)
                .arg(x)
                .arg(mask)
                .arg(&state)
                .arg(&histogram)
                .arg(&i32::from(self.from))
                .arg(&i32::from(self.largest))
                .arg(&(index_bits as i32))
                .arg(&digit[0])
                .arg(&digit[1])
                .arg(&i32::from(left > 0))
                .arg(&(x.len() as i64))
                .run(gpu)?;
            Launch::new("topk_select")
                .arg(&histogram)
                .arg(&state)
                .arg(&left)
                .arg(&digit[0])
                .run(gpu)?;
            left = 0;
            above = shift;
        }
        Launch::new("topk_flip_f32")
            .elements(x.len().div_ceil(4))
            .arg(x)
            .arg(mask)
            .arg(&state)
            .arg(&i32::from(self.from))
            .arg(&i32::from(self.largest))
            .arg(&(index_bits as i32))
            .arg(&(x.len() as i64))
            .run(gpu)
    }
}
