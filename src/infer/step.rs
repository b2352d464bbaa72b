//! The steps of a network on the CPU, and the program that they are.

use crate::Result;
use crate::cpu::aligned::Aligned;
use crate::device::host_memory;
use std::time::Instant;

/// What a step does with x, the residual where it adds one, and y, which it writes.
pub(super) type Work = Box<dyn Fn(&[f32], Option<&[f32]>, &mut [f32]) + Send + Sync>;

/// Work that may add a residual.
pub(super) fn work(
    run: impl Fn(&[f32], Option<&[f32]>, &mut [f32]) + Send + Sync + 'static,
) -> Work {
    Box::new(run)
}

/// Work that makes y of x alone.
pub(super) fn pass(run: impl Fn(&[f32], &mut [f32]) + Send + Sync + 'static) -> Work {
    Box::new(move |x, _, y| run(x, y))
}

/// One pass over memory.
pub(super) struct Step {
    pub(super) work: Work,
    /// The layer that it is part of.
    pub(super) layer: usize,
    pub(super) x: Slot,
    pub(super) residual: Option<Slot>,
    pub(super) y: Slot,
}

/// A buffer and how many floats of it.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) buffer: usize,
    pub(super) len: usize,
}

/// The steps for some images.
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    /// Floats of each buffer.
    pub(super) lens: Vec<usize>,
    pub(super) image: Slot,
    pub(super) logits: Slot,
}

impl Program {
    /// Buffers for a run.
    ///
    /// Errors: [`crate::ErrorKind::Device`] where the system has no memory for one.
    pub(super) fn memory(&self) -> Result<Vec<Aligned>> {
        let buffer = |&len: &usize| {
            Aligned::try_zeros(len).ok_or_else(|| host_memory::refused(len * size_of::<f32>()))
        };
        self.lens.iter().map(buffer).collect()
    }

    /// Computes the logits of at most as many images as the program was planned for. Adds the seconds of each layer to
    /// `times`.
    pub(super) fn run(
        &self,
        buffers: &mut [Aligned],
        pixels: &[f32],
        logits: &mut [f32],
        mut times: Option<&mut [f64]>,
    ) {
        buffers[self.image.buffer][..pixels.len()].copy_from_slice(pixels);
        for step in &self.steps {
            let start = times.is_some().then(Instant::now);
            // The planner never gives a step the buffer that it reads.
            let mut y = std::mem::replace(&mut buffers[step.y.buffer], Aligned::zeros(0));
            let read = |slot: Slot| &buffers[slot.buffer][..slot.len];
            (step.work)(read(step.x), step.residual.map(read), &mut y[..step.y.len]);
            buffers[step.y.buffer] = y;
            if let (Some(times), Some(start)) = (times.as_deref_mut(), start) {
                times[step.layer] += start.elapsed().as_secs_f64();
            }
        }
        logits.copy_from_slice(&buffers[self.logits.buffer][..logits.len()]);
    }
}
