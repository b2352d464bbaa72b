//! Memory of freed host tensors, kept for the next ones.
//!
//! A training step asks for the same sizes again and again. Large blocks that were freed come back from the system page by
//! page, filled with zeros, which costs as much as the arithmetic on them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Floats from which a block is worth keeping.
const SMALLEST: usize = 1 << 14;
/// Floats that are kept at most: 1 GiB.
const MOST: usize = 1 << 28;

#[derive(Default)]
struct Kept {
    by_len: HashMap<usize, Vec<Vec<f32>>>,
    floats: usize,
}

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

/// `len` floats that hold anything.
pub(crate) fn take(len: usize) -> Vec<f32> {
    let found = (len >= SMALLEST).then(|| {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.as_mut()?;
        let block = kept.by_len.get_mut(&len)?.pop()?;
        kept.floats -= len;
        Some(block)
    });
    found.flatten().unwrap_or_else(|| vec![0.0; len])
}

/// Keeps a block for [`take`]; where there is no room, what was kept for other sizes goes first.
pub(crate) fn give(block: Vec<f32>) {
    let len = block.len();
    if !(SMALLEST..=MOST).contains(&len) {
        return;
    }
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    if kept.floats + len > MOST {
        *kept = Kept::default();
    }
    kept.floats += len;
    kept.by_len.entry(len).or_default().push(block);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_for_its_length_only() {
        let len = SMALLEST + 12_345;
        let block = vec![7.0; len];
        let place = block.as_ptr();
        give(block);
        assert_eq!(take(len + 1).len(), len + 1);
        let again = take(len);
        assert!(again.as_ptr() == place && again[0] == 7.0);
        let fresh = take(len);
        assert!(fresh.as_ptr() != place);
    }
}
