//! The interface of a machine that executes kernels, and how a launch is run on it.

use super::launch::Launch;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{PoisonError, RwLock};

/// A machine that executes the kernels of `kernels/*.cu`. Pointers are device addresses.
///
/// Calls of one `Gpu` are ordered as on one stream: a download sees what the launches before it wrote.
pub trait Gpu: Send + Sync {
    /// `cuda:0` or `cuda-host`.
    fn name(&self) -> &str;
    /// The product and the version of its driver, or the processor. Machines of equal speed give equal strings.
    fn model(&self) -> String;
    /// Allocates `bytes` (more than 0) of device memory, aligned to 256 bytes, with undefined contents.
    fn alloc(&self, bytes: usize) -> Result<u64>;
    /// Frees memory of [`Gpu::alloc`].
    fn free(&self, ptr: u64);
    /// Copies from host to device.
    fn upload(&self, dst: u64, src: &[u8]) -> Result<()>;
    /// Copies from device to host, after everything that was launched before.
    fn download(&self, src: u64, dst: &mut [u8]) -> Result<()>;
    /// Copies from device to device.
    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()>;
    /// Fills device memory with zero bytes.
    fn zero(&self, ptr: u64, bytes: usize) -> Result<()>;
    /// Runs one kernel. An error of `cuda-host` names kernel, block, thread and source line.
    fn launch(&self, launch: &Launch) -> Result<()>;
    /// Waits until everything that was launched is done.
    fn synchronize(&self) -> Result<()>;

    /// Whether this machine can record graphs.
    fn records_graphs(&self) -> bool {
        false
    }
    /// Begins a recording. Until [`Gpu::end_graph`], everything that this thread launches, copies and zeroes is recorded
    /// instead of run; see [`super::Graph`].
    fn begin_graph(&self) -> Result<()> {
        Err(Error::device(self.name(), "cannot record graphs (use a CUDA device)"))
    }
    /// Ends the recording and returns the graph's number.
    fn end_graph(&self) -> Result<u64> {
        Err(Error::device(self.name(), "no graph is being recorded"))
    }
    /// Runs a recorded graph.
    fn launch_graph(&self, graph: u64) -> Result<()> {
        Err(Error::device(self.name(), format!("there is no graph {graph}")))
    }
    /// Frees a recorded graph.
    fn free_graph(&self, _graph: u64) {}
}

impl Launch {
    /// Runs the launch on `gpu`.
    pub fn run(&self, gpu: &dyn Gpu) -> Result<()> {
        record(self.name)?;
        gpu.launch(self)
    }
}

static LAUNCHED: RwLock<BTreeSet<&'static str>> = RwLock::new(BTreeSet::new());

/// The entry points that this process has launched so far, on any device.
pub fn launched() -> BTreeSet<&'static str> {
    LAUNCHED.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Keeps the name; a new one also becomes a line of the file that `REWIRE_LAUNCH_LOG` names.
fn record(name: &'static str) -> Result<()> {
    if LAUNCHED.read().unwrap_or_else(PoisonError::into_inner).contains(name) {
        return Ok(());
    }
    let new = LAUNCHED.write().unwrap_or_else(PoisonError::into_inner).insert(name);
    let Some(path) = std::env::var_os("REWIRE_LAUNCH_LOG").filter(|p| new && !p.is_empty()) else {
        return Ok(());
    };
    let append = || {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        file.write_all(format!("{name}\n").as_bytes())
    };
    append().map_err(|e| Error::io(&path, e))
}
