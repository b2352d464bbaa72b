//! Where tensors live and kernels run: [`Device::Cpu`], or a [`Gpu`] behind the driver (`cuda:N`) or
//! behind the host runtime (`cuda-host`). Operations never know which of the last two they talk to.

mod cuda;
mod doctor;
mod graph;
#[cfg(feature = "cuda-host")]
pub mod host;
pub(crate) mod host_memory;
mod kernels;
mod launch;
mod nvrtc;
mod source;

pub use cuda::CudaDevice;
pub(crate) use doctor::cpu_name;
pub use doctor::{Doctor, Finding, Kernels};
pub use graph::Graph;
pub(crate) use kernels::cache_folder;
pub use launch::{Arg, KernelArg, Launch, launched};

use crate::{Error, Result};
use std::fmt;
use std::sync::Arc;

/// A machine that executes the kernels of `kernels/*.cu`. Pointers are device addresses.
///
/// Calls of one `Gpu` are ordered as on one stream: a download sees what the launches before it wrote.
pub trait Gpu: Send + Sync {
    /// `cuda:0` or `cuda-host`.
    fn name(&self) -> &str;
    /// What it is, with the version of what runs it: the same for machines of equal speed.
    fn model(&self) -> String;
    /// `bytes` (more than 0) of device memory, 256-byte aligned, contents undefined.
    fn alloc(&self, bytes: usize) -> Result<u64>;
    /// Gives memory of [`Gpu::alloc`] back.
    fn free(&self, ptr: u64);
    /// Host to device.
    fn upload(&self, dst: u64, src: &[u8]) -> Result<()>;
    /// Device to host; waits for what was launched before.
    fn download(&self, src: u64, dst: &mut [u8]) -> Result<()>;
    /// Device to device.
    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()>;
    /// Fills with zero bytes.
    fn zero(&self, ptr: u64, bytes: usize) -> Result<()>;
    /// Runs one kernel. An error of `cuda-host` names kernel, block, thread and source line.
    fn launch(&self, launch: &Launch) -> Result<()>;
    /// Waits for everything.
    fn synchronize(&self) -> Result<()>;

    /// Whether it can record graphs.
    fn records_graphs(&self) -> bool {
        false
    }
    /// From here to [`Gpu::end_graph`], what this thread launches, copies and zeroes is recorded and not run;
    /// see [`Graph`].
    fn begin_graph(&self) -> Result<()> {
        Err(Error::device(self.name(), "cannot record graphs (use a CUDA device)"))
    }
    /// Ends the recording; gives the graph's number.
    fn end_graph(&self) -> Result<u64> {
        Err(Error::device(self.name(), "no graph is being recorded"))
    }
    /// Runs a recorded graph.
    fn launch_graph(&self, graph: u64) -> Result<()> {
        Err(Error::device(self.name(), format!("there is no graph {graph}")))
    }
    /// Forgets a recorded graph.
    fn free_graph(&self, _graph: u64) {}
}

/// The device of a tensor. Cheap to clone; equal when it is the same device.
#[derive(Clone)]
pub enum Device {
    /// Rust code on the host, threads by rayon.
    Cpu,
    /// CUDA kernels.
    Gpu(Arc<dyn Gpu>),
}

impl Device {
    /// The device of that name: `auto` (`cuda:0` where a driver and a device answer, else `cpu`), `cpu`,
    /// `cuda`, `cuda:N`, and `cuda-host` in a build with that feature.
    ///
    /// Errors: [`crate::ErrorKind::Param`] for another name, [`crate::ErrorKind::Device`] for a device that does not answer.
    pub fn new(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(cuda::open(0).map_or(Self::Cpu, |gpu| Self::Gpu(gpu))),
            "cpu" => Ok(Self::Cpu),
            _ if name == "cuda" || name.starts_with("cuda:") => {
                let ordinal = name.strip_prefix("cuda:").unwrap_or("0");
                let ordinal = ordinal.parse().map_err(|_| {
                    Error::param("--device", name, "cuda:N with a whole number N, as in cuda:0")
                })?;
                Ok(Self::Gpu(cuda::open(ordinal)?))
            }
            #[cfg(feature = "cuda-host")]
            "cuda-host" => Ok(Self::Gpu(host::Host::shared()?)),
            _ => Err(Error::param("--device", name, "auto, cpu, cuda, cuda:N or cuda-host")),
        }
    }
}

/// The entry points of all kernels of the product, sorted.
pub fn entry_points() -> &'static [&'static str] {
    include!(concat!(env!("OUT_DIR"), "/entry_points.rs"))
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cpu, Self::Cpu) => true,
            (Self::Gpu(a), Self::Gpu(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu(gpu) => f.write_str(gpu.name()),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
