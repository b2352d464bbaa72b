//! A network on the CPU: every layer made ready once, buffers planned ahead.

use super::fused::{FusedLayer, Network};
use super::layout::runs_in_bf16;
use super::planner;
use super::step::Program;
use super::way::Algorithm;
use crate::cpu::aligned::Aligned;
use crate::cpu::lanes;
use crate::cpu::team::{self, Team};
use crate::device::host_memory;
use crate::{Error, Mode, Result};
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most blocks of images in a part. VGG16 with 5 % of its weights took 26.3, 31.0 and 30.9 ms with parts of 1, 2 and 4
/// blocks of 16, and 105, 91 and 88 ms dense, where filters are large and read again for every part.
const SPARSE_PART: usize = 1;
const DENSE_PART: usize = 4;
/// In bf16: dense VGG16 at 128 images took 32, 44 and 78 ms with parts of 1, 2 and 4 blocks, the shortest median of four runs each; single
/// medians of 1 and 2 reached 78 and 77.
const BF16_PART: usize = 1;

/// More turns of parts than these are not all run where only their time is wanted.
const MANY_TURNS: usize = 4;
/// Most bytes that a part holds between two layers, unless one image has more: larger parts win nothing.
const PART_BYTES: usize = 1 << 30;

/// A network for one batch size and number of threads.
///
/// Large batches are cut into parts of a few blocks of one image a lane: a core takes a part through the whole network, so that what
/// one layer writes is still in its cache when the next one reads it. Small batches run layer by layer, all threads on
/// one layer. So do the parts of a batch that is cut because memory is short. How a batch is cut does not change results.
pub(super) struct CpuPlan {
    program: Program,
    batch: usize,
    /// Images that the program takes at once.
    part: usize,
    threads: usize,
    /// One for each thread where each takes parts of its own, else one.
    workers: Vec<Mutex<Worker>>,
    image_len: usize,
    logits_len: usize,
}

/// What runs the program for a part: its memory, and the threads that share each layer.
struct Worker {
    team: Arc<Team>,
    buffers: Vec<Aligned>,
}

impl CpuPlan {
    /// `algorithms` holds one for each layer; only convolutions look at theirs. `threads` is at most the pool's number.
    ///
    /// Errors: [`crate::ErrorKind::Device`] where the memory that is free does not hold a pass of one image.
    pub(super) fn build(
        network: &Network,
        batch: usize,
        mode: Mode,
        algorithms: &[Algorithm],
        threads: usize,
    ) -> Result<Self> {
        let blocks = batch.div_ceil(lanes::lanes());
        let cut = blocks >= 2 * threads || (blocks > 1 && blocks.is_multiple_of(threads));
        let most = match algorithms.contains(&Algorithm::Sparse) {
            true => SPARSE_PART,
            false if runs_in_bf16(mode) => BF16_PART,
            false => DENSE_PART,
        };
        let part = if cut { most.min(blocks / threads).max(1) * lanes::lanes() } else { batch };
        let free = host_memory::free().unwrap_or(usize::MAX);
        let (part, count) = fit(network, batch, part, if cut { threads } else { 1 }, free)?;
        let own = if count > 1 { 1 } else { threads };
        // Layers are cut for the threads that will share them.
        let program =
            team::lead(&Team::new(own), || planner::program(network, part, mode, algorithms));
        let worker =
            |_| Ok(Mutex::new(Worker { team: Team::new(own), buffers: program.memory()? }));
        let workers = (0..count).map(worker).collect::<Result<_>>()?;
        let len = |value: usize| network.shapes[value].iter().product();
        let (image_len, logits_len) = (len(0), len(network.shapes.len() - 1));
        Ok(Self { program, batch, part, threads, workers, image_len, logits_len })
    }

    /// Logits of the images `pixels`, `batch` at most.
    pub(super) fn run(&self, pixels: &[f32], logits: &mut [f32]) {
        let (part, image, row) = (self.part, self.image_len, self.logits_len);
        let count = pixels.len() / image.max(1);
        assert!(
            count <= self.batch && (pixels.len(), logits.len()) == (count * image, count * row)
        );
        let parts = pixels.chunks(part * image).zip(logits.chunks_mut(part * row));
        let parts: Vec<_> = parts.map(|part| Mutex::new(Some(part))).collect();
        let next = AtomicUsize::new(0);
        let work = |worker: &Mutex<Worker>| {
            let Worker { team, buffers } = &mut *lock(worker);
            team::lead(team, || {
                while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some((pixels, logits)) = lock(part).take() {
                        self.program.run(buffers, pixels, logits, None);
                    }
                }
            });
        };
        match &self.workers[..] {
            [worker] => work(worker),
            workers => workers.par_iter().with_max_len(1).for_each(work),
        }
    }

    /// Seconds of each layer in a run of one part, the images of which are zeros, after one in which the threads come awake: alone
    /// one thread would have done most of a small network before.
    pub(super) fn layer_seconds(&self, layers: usize) -> Vec<f64> {
        let Worker { team, buffers } = &mut *lock(&self.workers[0]);
        let mut seconds = vec![0.0; layers];
        let pixels = vec![0.0; self.part * self.image_len];
        let mut logits = vec![0.0; self.part * self.logits_len];
        team::lead(team, || {
            self.program.run(buffers, &pixels, &mut logits, None);
            self.program.run(buffers, &pixels, &mut logits, Some(&mut seconds));
        });
        seconds
    }

    /// Threads that a call runs on.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// As many images as show how long a call takes: all of them, or one part for each worker where there are many parts.
    pub(super) fn sample(&self) -> usize {
        let turn = self.part * self.workers.len();
        if self.batch > MANY_TURNS * turn { turn } else { self.batch }
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

/// Images of a part and number of workers that `free` bytes of memory hold: those asked for, or fewer. A plan takes half
/// of the free memory at most, so that others, those that are measured beside this one among them, have some too.
fn fit(
    network: &Network,
    batch: usize,
    part: usize,
    workers: usize,
    free: usize,
) -> Result<(usize, usize)> {
    let bytes = |value: usize| 4 * network.shapes[value].iter().product::<usize>();
    let passed = batch.saturating_mul(bytes(0) + bytes(network.shapes.len() - 1));
    let layer = |(i, layer): (usize, &FusedLayer)| {
        let read = [Some(layer.input), layer.residual].into_iter().flatten().map(bytes);
        (read.sum::<usize>() + bytes(i + 1), i)
    };
    let (one, largest) =
        network.layers.iter().enumerate().map(layer).max().unwrap_or((bytes(0), 0));
    let one = one.max(1);
    let Some(left) = (free / 2).checked_sub(passed).filter(|left| *left >= one) else {
        let [passed, one, free] = [passed, one, free].map(host_memory::words);
        let layer = network.layer_name(largest);
        let message = format!(
            "images and logits of a batch of {batch} are {passed}, and one image takes {one} in {layer}; a plan takes at \
             most half of the free memory, which is {free}: take a smaller batch or a machine with more memory"
        );
        return Err(Error::device("cpu", message));
    };
    let part = part.min((PART_BYTES / one).max(1));
    Ok(match left / (one * workers) {
        0 => (part.min(left / one), 1),
        most => (part.min(most), workers),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::fused::LayerOp;

    /// One layer from 100 to 150 values: an image and its logits are 1000 bytes, and so is what the layer holds.
    fn network() -> Network {
        let op = LayerOp::Pointwise(None);
        let layer = FusedLayer { op, input: 0, residual: None, relu: false, pool: false };
        Network { layers: vec![layer], shapes: vec![[10, 10, 1], [1, 1, 150]] }
    }

    #[test]
    fn a_plan_is_cut_until_it_fits_into_half_of_the_free_memory() {
        let fit = |batch, part, workers, free| fit(&network(), batch, part, workers, free);
        assert_eq!(fit(64, 16, 4, 1 << 40).unwrap(), (16, 4));
        // 64 kB of images; 40, 8 and 3 kB for the parts.
        assert_eq!(fit(64, 16, 4, 2 * (64_000 + 40_000)).unwrap(), (10, 4));
        assert_eq!(fit(64, 16, 4, 2 * (64_000 + 8_000)).unwrap(), (2, 4));
        assert_eq!(fit(64, 16, 4, 2 * (64_000 + 3_000)).unwrap(), (3, 1));
        let error = fit(64, 16, 4, 2 * (64_000 + 999)).unwrap_err().to_string();
        for words in
            ["batch of 64", "64.0 kB", "1.0 kB in the element-wise layer 0", "smaller batch"]
        {
            assert!(error.contains(words), "{error}");
        }
        assert!(fit(usize::MAX / 8, 1, 1, usize::MAX).is_err());
    }
}
