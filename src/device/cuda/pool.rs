//! A caching pool of device memory. All work of a device is ordered on one stream. So a freed block of memory may be
//! handed out again at once: its next user runs after its last one.
//!
//! The driver's own pool (`cuMemAllocAsync`) would not do. Memory of a recorded graph must stay where it is until the graph
//! is gone, which takes the bookkeeping below in any case. And this pool works on every driver.

use std::collections::{BTreeMap, HashMap};

/// Keeps track of which block of memory is used by whom. It never calls the driver.
#[derive(Default)]
pub struct Pool {
    blocks: BTreeMap<u64, Block>,
    /// Free for everybody, by size class.
    free: HashMap<usize, Vec<u64>>,
    /// Given back during the recording that goes on: free for that recording alone.
    recorded: HashMap<usize, Vec<u64>>,
}

struct Block {
    bytes: usize,
    live: bool,
    /// The recording that it was handed out to.
    owner: Option<u64>,
    /// Recorded graphs that hold its address.
    graphs: Vec<u64>,
}

/// The size that is allocated for a request: a multiple of 512 bytes, and above 4 KiB one of eight steps
/// for each power of two, so that at most an eighth is unused.
pub fn size_class(bytes: usize) -> usize {
    let step = if bytes <= 4096 { 512 } else { 1 << (bytes.ilog2() - 3) };
    bytes.next_multiple_of(step)
}

impl Pool {
    /// A block for `bytes`, if one is free. `graph`: the recording that asks.
    pub fn take(&mut self, bytes: usize, graph: Option<u64>) -> Option<u64> {
        let class = size_class(bytes);
        let recorded = graph.and_then(|_| self.recorded.get_mut(&class)?.pop());
        let ptr = recorded.or_else(|| self.free.get_mut(&class)?.pop())?;
        self.hand_out(ptr, class, graph);
        Some(ptr)
    }

    /// Enters new memory of `size_class(bytes)` bytes as handed out.
    pub fn adopt(&mut self, ptr: u64, bytes: usize, graph: Option<u64>) {
        self.hand_out(ptr, size_class(bytes), graph);
    }

    fn hand_out(&mut self, ptr: u64, bytes: usize, graph: Option<u64>) {
        let graphs = graph.into_iter().collect();
        self.blocks.insert(ptr, Block { bytes, live: true, owner: graph, graphs });
    }

    /// Takes a block back. A block whose address a graph holds stays reserved until the graph is gone; only the recording that it
    /// was handed out to may use it again.
    pub fn give(&mut self, ptr: u64, graph: Option<u64>) {
        let Some(block) = self.blocks.get_mut(&ptr) else { return };
        block.live = false;
        if block.graphs.is_empty() {
            self.free.entry(block.bytes).or_default().push(ptr);
        } else if graph.is_some() && block.owner == graph {
            self.recorded.entry(block.bytes).or_default().push(ptr);
        }
    }

    /// Notes that the recording `graph` uses the block which `ptr` points into.
    pub fn hold(&mut self, ptr: u64, graph: u64) {
        let Some((start, block)) = self.blocks.range_mut(..=ptr).next_back() else { return };
        if ptr < start + block.bytes as u64 && !block.graphs.contains(&graph) {
            block.graphs.push(graph);
        }
    }

    /// The recording has ended: what it gave back stays with its graph.
    pub fn end_recording(&mut self) {
        self.recorded.clear();
    }

    /// Frees what only `graph` still held.
    pub fn drop_graph(&mut self, graph: u64) {
        for (&ptr, block) in &mut self.blocks {
            let held = block.graphs.len();
            block.graphs.retain(|&g| g != graph);
            if block.graphs.len() < held && block.graphs.is_empty() && !block.live {
                self.free.entry(block.bytes).or_default().push(ptr);
            }
        }
    }

    /// Takes all free memory out of the pool, for the driver.
    pub fn drain(&mut self) -> Vec<u64> {
        let free: Vec<u64> = self.free.drain().flat_map(|(_, ptrs)| ptrs).collect();
        for ptr in &free {
            self.blocks.remove(ptr);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block given to the pool, as new memory.
    fn adopt(pool: &mut Pool, ptr: u64, bytes: usize, graph: Option<u64>) -> u64 {
        assert_eq!(pool.take(bytes, graph), None);
        pool.adopt(ptr, bytes, graph);
        ptr
    }

    #[test]
    fn size_classes_waste_at_most_an_eighth_and_keep_alignment() {
        for bytes in (1..20_000).chain([1 << 20, (1 << 20) + 1, 3_000_001, (1 << 33) + 5]) {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(512), "{bytes} -> {class}");
            assert!(bytes <= 4096 || class - bytes <= bytes / 8, "{bytes} -> {class}");
            assert_eq!(size_class(class), class);
        }
    }

    #[test]
    fn a_block_comes_back_for_its_size_class_only() {
        let mut pool = Pool::default();
        let a = adopt(&mut pool, 0x1000, 600, None);
        pool.give(a, None);
        assert_eq!(pool.take(4096, None), None);
        assert_eq!(pool.take(1024, None), Some(a));
        assert_eq!(pool.take(1024, None), None);
    }

    #[test]
    fn a_recording_reuses_its_own_blocks_and_nobody_else_does() {
        let mut pool = Pool::default();
        let a = adopt(&mut pool, 0x1000, 512, Some(1));
        pool.give(a, Some(1));
        assert_eq!(pool.take(512, None), None);
        assert_eq!(pool.take(512, Some(1)), Some(a));
        pool.give(a, Some(1));
        pool.end_recording();
        assert_eq!(pool.take(512, Some(2)), None);
        pool.drop_graph(1);
        assert_eq!(pool.take(512, None), Some(a));
    }

    #[test]
    fn what_a_graph_reads_stays_until_the_graph_is_gone() {
        let mut pool = Pool::default();
        let (input, output) = (0x1000, 0x2000);
        pool.adopt(input, 512, None);
        pool.hold(input + 100, 1);
        pool.adopt(output, 512, Some(1));
        pool.give(input, Some(1));
        assert_eq!(
            pool.take(512, Some(1)),
            None,
            "the input's content is needed by the next replay"
        );
        pool.end_recording();
        pool.give(output, None);
        assert_eq!(pool.take(512, None), None);
        pool.drop_graph(1);
        let mut free = pool.drain();
        free.sort();
        assert_eq!(free, [input, output]);
    }

    #[test]
    fn a_block_of_two_graphs_waits_for_both() {
        let mut pool = Pool::default();
        pool.adopt(0x1000, 512, None);
        pool.hold(0x1000, 1);
        pool.hold(0x1000, 2);
        pool.hold(0x1000 + 512, 3);
        pool.drop_graph(1);
        pool.give(0x1000, None);
        assert_eq!(pool.take(512, None), None);
        pool.drop_graph(2);
        assert_eq!(pool.take(512, None), Some(0x1000));
    }
}
