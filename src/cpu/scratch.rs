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

// SAFETY: the slice's owner borrows it for as long as tasks run. Reads and writes are unsafe calls of theirs, by `part` or through
// `ptr`, and the contract of both is that no two tasks touch one float.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(slice: &mut [f32]) -> Self {
        Self { ptr: slice.as_mut_ptr(), len: slice.len() }
    }

    /// Panics where `start..start + len` does not lie inside.
    fn check(&self, start: usize, len: usize) {
        assert!(start <= self.len && len <= self.len - start, "{start} + {len} of {}", self.len);
    }

    /// The floats `start..start + len`, which other tasks may write parts of too.
    pub(crate) fn span(&self, start: usize, len: usize) -> Self {
        self.check(start, len);
        // SAFETY: inside the slice, or its end (checked).
        Self { ptr: unsafe { self.ptr.add(start) }, len }
    }

    /// The floats from `start` on, likewise.
    pub(crate) fn rest(&self, start: usize) -> Self {
        self.span(start, self.len.saturating_sub(start))
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
        self.check(start, len);
        // SAFETY: inside the slice (checked), exclusive by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::Shared;
    use std::panic::catch_unwind;

    #[test]
    fn what_does_not_lie_inside_is_refused() {
        let mut floats = [0.0; 4];
        let shared = Shared::new(&mut floats);
        let refused = |f: &dyn Fn()| catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
        assert_eq!((shared.rest(4).len(), shared.rest(1).span(1, 2).len()), (0, 2));
        assert!(refused(&|| _ = shared.rest(5)));
        assert!(refused(&|| _ = shared.rest(usize::MAX)));
        assert!(refused(&|| _ = shared.span(2, 3)));
        assert!(refused(&|| _ = shared.span(2, usize::MAX)));
        assert!(refused(&|| _ = shared.rest(1).span(1, 3)));
    }
}
