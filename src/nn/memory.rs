//! What a pass over a network holds in the host's memory.

use super::{Graph, Op};
use crate::device::host_memory;
use crate::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Passes that take less are not checked: to ask the system costs some ten microseconds.
const SMALL: usize = 1 << 28;

/// Values of one image that a pass holds.
#[derive(Debug, Clone)]
pub(super) struct PassMemory {
    /// The results of all nodes: what a tape keeps for gradients.
    recorded: usize,
    /// The most results that are there at once where each goes after its last use.
    alive: usize,
    /// The node with the largest result, as messages call it.
    largest: String,
    /// The most bytes that were free when a pass asked for them. Later passes of that size are not checked: what the first
    /// one took is the program's to use again, whether or not the system counts it as free.
    granted: Arc<AtomicUsize>,
}

impl PassMemory {
    /// Of a network whose nodes have results of `shapes` for one image.
    pub(super) fn of(graph: &Graph, shapes: &[Vec<usize>]) -> Self {
        let len = |i: usize| shapes[i].iter().product::<usize>();
        let (mut now, mut alive) = (0usize, 0);
        let last_use = graph.last_use();
        for (i, node) in graph.nodes.iter().enumerate() {
            now += len(i);
            alive = alive.max(now);
            let mut gone: Vec<usize> =
                node.inputs.iter().copied().filter(|&input| last_use[input] == i).collect();
            gone.dedup();
            now -= gone.into_iter().map(len).sum::<usize>();
        }
        let largest = (0..shapes.len()).max_by_key(|&i| len(i)).unwrap_or(0);
        let named = |op: &Op| match op.tensors().first() {
            Some(name) => format!("graph[{largest}] {} ({name})", op.kind()),
            None => format!("graph[{largest}] {}", op.kind()),
        };
        let name = graph.nodes.get(largest).map_or(String::new(), |node| named(&node.op));
        let largest = format!("{name}, whose result has {} values an image", len(largest));
        let recorded = (0..shapes.len()).map(len).sum();
        let granted = Arc::new(AtomicUsize::new(SMALL));
        Self { recorded, alive, largest, granted }
    }

    /// Checks that the free memory holds a pass over `images` images in values of `bytes` each; `records` says whether a tape
    /// keeps the results.
    ///
    /// Errors: [`crate::ErrorKind::Device`] that names the largest layer.
    pub(super) fn check(&self, images: usize, bytes: usize, records: bool) -> Result<()> {
        let values = if records { self.recorded } else { self.alive };
        let need = values.saturating_mul(images).saturating_mul(bytes);
        if need <= self.granted.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(free) = host_memory::free().filter(|&free| need > free) {
            return Err(self.refused(images, records, need, free));
        }
        self.granted.fetch_max(need, Ordering::Relaxed);
        Ok(())
    }

    fn refused(&self, images: usize, records: bool, need: usize, free: usize) -> Error {
        let keeps = if records { "keeps for gradients" } else { "holds at once" };
        let message = format!(
            "a pass over a batch of {images} {keeps} {}, {} are free; the largest layer is {}: take a smaller batch \
             (--batch-size, --batch or train.batch_size) or a smaller network",
            host_memory::words(need),
            host_memory::words(free),
            self.largest
        );
        Error::device("cpu", message)
    }
}
