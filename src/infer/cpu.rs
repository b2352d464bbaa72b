//! A network on the CPU: every layer made ready once, buffers planned ahead.

use super::fused::Network;
use super::layout::runs_in_bf16;
use super::planner;
use super::step::Program;
use super::way::Algorithm;
use crate::Mode;
use crate::cpu::aligned::Aligned;
use crate::cpu::{lanes, team};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most blocks of images in a part. VGG16 with 5 % of its weights took 26.3, 31.0 and 30.9 ms with parts of 1, 2 and 4
/// blocks of 16, and 105, 91 and 88 ms dense, where filters are large and read again for every part.
const SPARSE_PART: usize = 1;
const DENSE_PART: usize = 4;
/// In bf16: dense VGG16 at 128 images took 32, 44 and 78 ms with parts of 1, 2 and 4 blocks, the shortest median of four runs each; single
/// medians of 1 and 2 reached 78 and 77.
const BF16_PART: usize = 1;

/// A network for one batch size.
///
/// Large batches are cut into parts of a few blocks of one image a lane: a core takes a part through the whole network, so that what
/// one layer writes is still in its cache when the next one reads it. Small batches run layer by layer, all cores on
/// one layer.
pub(super) struct CpuPlan {
    program: Program,
    batch: usize,
    /// Images that the program takes at once.
    part: usize,
    /// One for each core where the batch is cut into parts, else one.
    workers: Vec<Mutex<Worker>>,
    image_len: usize,
    logits_len: usize,
}

/// What runs the program for a part: its memory, and a pool of one thread where the batch is cut into parts.
struct Worker {
    pool: Option<ThreadPool>,
    buffers: Vec<Aligned>,
}

impl CpuPlan {
    /// `algorithms` holds one for each layer; only convolutions look at theirs.
    pub(super) fn build(
        network: &Network,
        batch: usize,
        mode: Mode,
        algorithms: &[Algorithm],
    ) -> Self {
        let threads = rayon::current_num_threads();
        let blocks = batch.div_ceil(lanes::lanes());
        let cut = blocks >= 2 * threads || (blocks > 1 && blocks.is_multiple_of(threads));
        let most = match algorithms.contains(&Algorithm::Sparse) {
            true => SPARSE_PART,
            false if runs_in_bf16(mode) => BF16_PART,
            false => DENSE_PART,
        };
        // Without a pool of its own a part still runs, on all cores.
        let pool = || cut.then(|| ThreadPoolBuilder::new().num_threads(1).build().ok()).flatten();
        let part = if cut { most.min(blocks / threads).max(1) * lanes::lanes() } else { batch };
        let program = planner::program(network, part, mode, algorithms);
        let count = if cut { threads } else { 1 };
        let worker = |_| Mutex::new(Worker { pool: pool(), buffers: program.memory() });
        let workers = (0..count).map(worker).collect();
        let len = |value: usize| network.shapes[value].iter().product();
        let (image_len, logits_len) = (len(0), len(network.shapes.len() - 1));
        Self { program, batch, part, workers, image_len, logits_len }
    }

    /// Logits of the `batch` images `pixels`.
    pub(super) fn run(&self, pixels: &[f32], logits: &mut [f32]) {
        let (part, image, row) = (self.part, self.image_len, self.logits_len);
        assert!(pixels.len() == self.batch * image && logits.len() == self.batch * row);
        let parts = pixels.chunks(part * image).zip(logits.chunks_mut(part * row));
        let parts: Vec<_> = parts.map(|part| Mutex::new(Some(part))).collect();
        let next = AtomicUsize::new(0);
        let work = |worker: &Mutex<Worker>| {
            let Worker { pool, buffers } = &mut *lock(worker);
            let mut all = || {
                while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some((pixels, logits)) = lock(part).take() {
                        self.program.run(buffers, pixels, logits, None);
                    }
                }
            };
            match pool {
                Some(pool) => pool.install(all),
                None => all(),
            }
        };
        match &self.workers[..] {
            [worker] => team::lead(|| work(worker)),
            workers => workers.par_iter().with_max_len(1).for_each(work),
        }
    }

    /// Seconds of each layer in a run of one part, the images of which are zeros, after one in which the threads come awake: alone
    /// one thread would have done most of a small network before.
    pub(super) fn layer_seconds(&self, layers: usize) -> Vec<f64> {
        let Worker { pool, buffers } = &mut *lock(&self.workers[0]);
        let mut seconds = vec![0.0; layers];
        let pixels = vec![0.0; self.part * self.image_len];
        let mut logits = vec![0.0; self.part * self.logits_len];
        let run = || {
            self.program.run(buffers, &pixels, &mut logits, None);
            self.program.run(buffers, &pixels, &mut logits, Some(&mut seconds));
        };
        match pool {
            Some(pool) => pool.install(run),
            None => team::lead(run),
        }
        seconds
    }

    /// Images that go through the network together.
    pub(super) fn part(&self) -> usize {
        self.part
    }

    /// Bytes of the buffers that activations pass through.
    pub(super) fn activation_bytes(&self) -> usize {
        self.workers.len() * 4 * self.program.lens.iter().sum::<usize>()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
