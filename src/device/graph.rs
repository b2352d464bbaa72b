//! Recorded work: launches that are described once and then run again and again by one call.

use super::{Device, Gpu};
use crate::{Error, Result};
use std::sync::Arc;

/// A CUDA graph: what [`Graph::record`] saw, ready to run as a whole.
///
/// The graph keeps the memory that it uses until it is dropped. Every run has the arguments of the recording, so values that
/// change from run to run must be read from device memory.
pub struct Graph {
    gpu: Arc<dyn Gpu>,
    id: u64,
}

impl Graph {
    /// Records what `work` launches on `device` instead of running it. Returns the graph and the result of `work`, whose
    /// tensors [`Graph::launch`] fills.
    ///
    /// Errors: those of `work`; [`crate::ErrorKind::Device`] where the device has no graphs, and for an upload or
    /// a download inside `work`.
    pub fn record<T>(device: &Device, work: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let Device::Gpu(gpu) = device else {
            return Err(Error::device("cpu", "cannot record graphs (use a CUDA device)"));
        };
        gpu.begin_graph()?;
        let recording = Recording(gpu);
        let result = work();
        std::mem::forget(recording);
        let graph = Self { gpu: gpu.clone(), id: gpu.end_graph()? };
        Ok((graph, result?))
    }

    /// Runs the recorded work after everything launched so far.
    pub fn launch(&self) -> Result<()> {
        self.gpu.launch_graph(self.id)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.gpu.free_graph(self.id);
    }
}

/// Ends the recording when `work` unwinds, so that the device is usable afterwards.
struct Recording<'a>(&'a Arc<dyn Gpu>);

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if let Ok(id) = self.0.end_graph() {
            self.0.free_graph(id);
        }
    }
}
