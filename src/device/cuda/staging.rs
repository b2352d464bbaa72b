//! Copies from the host to the device, through pinned memory.
//!
//! `cuMemcpyHtoDAsync` may return before it has read pageable memory, and the owner of that memory may then change it. Uploads
//! are small and many: a training step has its images, its labels and a seed for each gradient. Waiting for each upload
//! would leave the device idle. So uploads pass through pinned blocks that take turns, and wait only for a block that is
//! still being read.

use super::driver::check;
use cudarc::driver::sys;
use std::ffi::c_uint;
use std::ptr;

const BLOCK_BYTES: usize = 256 << 10;
const BLOCKS: usize = 64;

/// Pinned blocks, allocated by the first upload and kept as long as the process lives.
#[derive(Default)]
pub struct Staging {
    blocks: Vec<Block>,
    next: usize,
}

struct Block {
    memory: *mut u8,
    /// Recorded behind the copy that reads the block.
    read: sys::CUevent,
}

impl Staging {
    /// Copies `src` to the device, ordered on the stream; `src` may change as soon as this returns. The context must be
    /// current, and `src.len()` bytes at `dst` be the caller's.
    pub fn upload(
        &mut self,
        mut dst: u64,
        src: &[u8],
        stream: sys::CUstream,
    ) -> Result<(), String> {
        if self.blocks.is_empty() {
            self.blocks = allocate()?;
        }
        for part in src.chunks(BLOCK_BYTES) {
            let block = &self.blocks[self.next % BLOCKS];
            self.next += 1;
            // SAFETY: the event is valid, and so is the stream. Once the event has passed nothing reads the block any
            // more, so it may be written; it has BLOCK_BYTES bytes, and `part` no more.
            unsafe {
                check(sys::cuEventSynchronize(block.read))?;
                ptr::copy_nonoverlapping(part.as_ptr(), block.memory, part.len());
                check(sys::cuMemcpyHtoDAsync_v2(dst, block.memory.cast(), part.len(), stream))?;
                let recorded = check(sys::cuEventRecord(block.read, stream));
                if recorded.is_err() {
                    // Nothing says when the copy is over: it is waited for, or the block could be written too early.
                    check(sys::cuStreamSynchronize(stream))?;
                }
                recorded?;
            }
            dst += part.len() as u64;
        }
        Ok(())
    }
}

fn allocate() -> Result<Vec<Block>, String> {
    let mut memory = ptr::null_mut();
    // SAFETY: `memory` is written.
    check(unsafe { sys::cuMemHostAlloc(&mut memory, BLOCKS * BLOCK_BYTES, 0) })?;
    let flags = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as c_uint;
    let block = |i: usize| {
        let mut read = ptr::null_mut();
        // SAFETY: `read` is written.
        check(unsafe { sys::cuEventCreate(&mut read, flags) })?;
        // SAFETY: `i` is below BLOCKS, so the block lies inside the allocation.
        let memory = unsafe { memory.cast::<u8>().add(i * BLOCK_BYTES) };
        Ok(Block { memory, read })
    };
    (0..BLOCKS).map(block).collect()
}
