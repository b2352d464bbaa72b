//! Devices: where tensors lie and where operations run. Start with [`Device::new`].
//!
//! A device is the CPU, or a [`Gpu`] that runs the kernels of `kernels/`: by the CUDA driver (`cuda:N`), or on the host
//! (`cuda-host`, for tests). Operations do not know which of the two runs their kernels.

mod cuda;
mod doctor;
mod gpu;
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
pub use gpu::{Gpu, launched};
pub use graph::Graph;
pub(crate) use kernels::cache_folder;
pub use kernels::entry_points;
pub use launch::{Arg, KernelArg, Launch};

use crate::{Error, Result};
use std::fmt;
use std::sync::Arc;

/// A device. Clones are cheap, and equal to each other.
#[derive(Clone)]
pub enum Device {
    /// Rust code on the host, on the threads of rayon's pool.
    Cpu,
    /// CUDA kernels.
    Gpu(Arc<dyn Gpu>),
}

impl Device {
    /// The device `name`: `cpu`, `cuda:N`, `cuda` for `cuda:0`, or `auto` for `cuda:0` where a driver and a GPU answer and `cpu`
    /// elsewhere. A build with the feature `cuda-host` has a device of that name, too.
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
