//! Device memory of `cuda-host`: where allocations lie. `kernels/host/memory.cpp` keeps what the checks need to know.

use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Device memory: one range of addresses; what is free and what is taken of it.
pub(super) struct Memory {
    base: u64,
    ranges: Mutex<Ranges>,
}

/// Offset to length, in bytes, multiples of [`GRANULE`] among the free ones.
struct Ranges {
    free: BTreeMap<u64, u64>,
    taken: BTreeMap<u64, u64>,
}

/// The unit of allocation; one stays unused behind each, so that running over the end is seen.
const GRANULE: u64 = 256;

impl Memory {
    /// The memory of this process.
    pub(super) fn get() -> Result<&'static Self> {
        static MEMORY: OnceLock<Option<Memory>> = OnceLock::new();
        let reserve = || {
            let mut bytes = 0;
            // SAFETY: called once in the process, with a place for the size.
            let base = unsafe { rewire_host_reserve(&mut bytes) };
            let ranges = Ranges { free: BTreeMap::from([(0, bytes)]), taken: BTreeMap::new() };
            (base != 0).then(|| Memory { base, ranges: Mutex::new(ranges) })
        };
        let memory = MEMORY.get_or_init(reserve).as_ref();
        memory.ok_or_else(|| Error::device("cuda-host", "no address space for device memory"))
    }

    fn ranges(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That `bytes` from `ptr` lie in one allocation.
    pub(super) fn check(&self, what: &str, ptr: u64, bytes: u64) -> Result<()> {
        let offset = ptr.wrapping_sub(self.base);
        let ranges = self.ranges();
        let inside = ranges.taken.range(..=offset).next_back().is_some_and(|(&start, &len)| {
            offset.checked_add(bytes).is_some_and(|end| end <= start + len)
        });
        if inside || bytes == 0 {
            return Ok(());
        }
        let message = format!("{what} of {bytes} bytes at {ptr:#x}: outside every allocation");
        Err(Error::device("cuda-host", message))
    }

    /// The first range that is free and large enough.
    pub(super) fn alloc(&self, bytes: u64) -> Result<u64> {
        let full = || Error::device("cuda-host", format!("no room for {bytes} bytes"));
        let size = bytes.checked_next_multiple_of(GRANULE).and_then(|b| b.checked_add(GRANULE));
        let size = size.ok_or_else(full)?;
        let mut ranges = self.ranges();
        let (&offset, &len) = ranges.free.iter().find(|&(_, &len)| len >= size).ok_or_else(full)?;
        ranges.free.remove(&offset);
        if len > size {
            ranges.free.insert(offset + size, len - size);
        }
        ranges.taken.insert(offset, bytes);
        drop(ranges);
        let ptr = self.base + offset;
        // SAFETY: the range was free and is ours now.
        unsafe { rewire_host_allocate(ptr, bytes) };
        Ok(ptr)
    }

    /// Gives an allocation back and joins it with its free neighbours.
    pub(super) fn free(&self, ptr: u64) {
        let mut ranges = self.ranges();
        let mut offset = ptr.wrapping_sub(self.base);
        let Some(bytes) = ranges.taken.remove(&offset) else { return };
        // SAFETY: the range was an allocation and nobody has it any more.
        unsafe { rewire_host_free(ptr, bytes) };
        let mut len = bytes.next_multiple_of(GRANULE) + GRANULE;
        if let Some(next) = ranges.free.remove(&(offset + len)) {
            len += next;
        }
        if let Some((&before, &length)) = ranges.free.range(..offset).next_back()
            && before + length == offset
        {
            offset = before;
            len += length;
        }
        ranges.free.insert(offset, len);
    }
}

unsafe extern "C" {
    fn rewire_host_reserve(bytes: *mut u64) -> u64;
    fn rewire_host_allocate(address: u64, bytes: u64);
    fn rewire_host_free(address: u64, bytes: u64);
}
