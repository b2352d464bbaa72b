//! Aligned work memory that stays with its thread, and shared output of tasks.

use super::aligned::Aligned;
use std::cell::RefCell;

thread_local! {
    // Fresh memory of this size comes from the system page by page, which costs more than packing into it.
    static FREE: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with `len` floats, aligned to 64 bytes, that hold whatever was left in them.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let kept = FREE.with_borrow_mut(Vec::pop).filter(|kept| kept.len() >= len);
    let mut kept = kept.unwrap_or_else(|| Aligned::zeros(len));
    let result = f(&mut kept[..len]);
    FREE.with_borrow_mut(|free| free.push(kept));
    result
}

/// A slice that tasks write disjoint parts of.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    ptr: *mut f32,
    len: usize,
}

// SAFETY: access goes through the unsafe `part`, whose contract excludes overlaps.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(slice: &mut [f32]) -> Self {
        Self { ptr: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The floats `start..start + len`, which other tasks may write parts of too.
    pub(crate) fn span(&self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len);
        // SAFETY: inside the slice, or its end (checked).
        Self { ptr: unsafe { self.ptr.add(start) }, len }
    }

    /// The floats from `start` on, likewise.
    pub(crate) fn rest(&self, start: usize) -> Self {
        self.span(start, self.len - start)
    }

    /// Start of the slice, which has [`Self::len`] floats. What is read and written through it must not be another task's.
    pub(crate) fn ptr(&self) -> *mut f32 {
        self.ptr
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// No other task touches them while the result lives, and the slice itself outlives it.
    pub(crate) unsafe fn part<'a>(&self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start + len <= self.len);
        // SAFETY: inside the slice (checked), exclusive by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}
