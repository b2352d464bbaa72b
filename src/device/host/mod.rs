//! The device `cuda-host`: the kernels of `kernels/*.cu`, compiled for the host and run there with checks.
//!
//! What a GPU leaves undefined is an error here: [`crate::ErrorKind::Kernel`] with the block, the thread, the mistake
//! and the source line. `kernels/host` is the runtime behind it.

mod banks;
mod lines;
mod memory;
mod runtime;

use super::{Gpu, Launch};
use crate::{Error, Result};
use memory::Memory;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// The order in which the threads of a block run between two meeting points. A correct kernel gives the
/// same bits in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Threads and blocks in turn, each to its next meeting point.
    Fifo,
    /// The thread that completes a meeting runs ahead; blocks and threads start from the last.
    Lifo,
}

/// How the host runs kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOptions {
    /// `REWIRE_HOST_SCHEDULE`: `fifo` (default) or `lifo`.
    pub schedule: Schedule,
    /// `REWIRE_HOST_CHECKS`: `full` (default) or `off`, for measurements: only what could damage the
    /// process, meetings and what the compiler sees are then checked.
    pub checks: bool,
    /// `REWIRE_HOST_BUDGET`: loads, stores and meetings that one block may make before it is taken for an endless loop.
    pub budget: u64,
    /// `REWIRE_HOST_BANKS`: a file to which each launch appends its bank conflicts, a line for each instruction that
    /// touches shared memory: `kernel kind requests extra [place]`. Checks are then on, and blocks run one by one.
    pub banks: Option<PathBuf>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { schedule: Schedule::Fifo, checks: true, budget: 1 << 32, banks: None }
    }
}

impl HostOptions {
    /// The options that the environment names.
    ///
    /// Errors: [`crate::ErrorKind::Param`] for a value that is none.
    pub fn from_env() -> Result<Self> {
        let mut options = Self::default();
        let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        if let Some(value) = var("REWIRE_HOST_SCHEDULE") {
            options.schedule = match value.as_str() {
                "fifo" => Schedule::Fifo,
                "lifo" => Schedule::Lifo,
                _ => return Err(Error::param("REWIRE_HOST_SCHEDULE", value, "fifo or lifo")),
            };
        }
        if let Some(value) = var("REWIRE_HOST_CHECKS") {
            options.checks = match value.as_str() {
                "full" => true,
                "off" => false,
                _ => return Err(Error::param("REWIRE_HOST_CHECKS", value, "full or off")),
            };
        }
        if let Some(value) = var("REWIRE_HOST_BUDGET") {
            options.budget = (value.parse().ok())
                .filter(|b| (1..1 << 62).contains(b))
                .ok_or_else(|| Error::param("REWIRE_HOST_BUDGET", value, "a positive integer"))?;
        }
        options.banks = var("REWIRE_HOST_BANKS").map(PathBuf::from);
        Ok(options)
    }
}

/// The host as a [`Gpu`]. All share one device memory.
pub struct Host {
    options: HostOptions,
    memory: &'static Memory,
}

impl Host {
    /// The device with the options of the environment, the same one every time.
    pub fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceLock<Arc<Host>> = OnceLock::new();
        if let Some(host) = SHARED.get() {
            return Ok(host.clone());
        }
        let host = Arc::new(Self::new(HostOptions::from_env()?)?);
        Ok(SHARED.get_or_init(|| host).clone())
    }

    /// A device with these options.
    ///
    /// Errors: [`crate::ErrorKind::Device`] where the system gives no address space, or where the program was
    /// built on a machine whose processor can do more.
    pub fn new(options: HostOptions) -> Result<Self> {
        #[cfg(host_fma)]
        if !std::arch::is_x86_feature_detected!("fma") {
            let message = "this program's kernels use FMA instructions, which this processor lacks; build it here";
            return Err(Error::device("cuda-host", message));
        }
        Ok(Self { options, memory: Memory::get()? })
    }
}

impl Gpu for Host {
    fn name(&self) -> &str {
        "cuda-host"
    }

    fn model(&self) -> String {
        format!("cuda-host on {}", super::cpu_name())
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.memory.alloc(bytes as u64)
    }

    fn free(&self, ptr: u64) {
        self.memory.free(ptr);
    }

    fn upload(&self, dst: u64, src: &[u8]) -> Result<()> {
        self.memory.check("upload", dst, src.len() as u64)?;
        // SAFETY: `dst` is inside an allocation of that size, `src` is host memory.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst as *mut u8, src.len()) };
        Ok(())
    }

    fn download(&self, src: u64, dst: &mut [u8]) -> Result<()> {
        self.memory.check("download", src, dst.len() as u64)?;
        // SAFETY: `src` is inside an allocation of that size, `dst` is host memory.
        unsafe { std::ptr::copy_nonoverlapping(src as *const u8, dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        self.memory.check("copy to", dst, bytes as u64)?;
        self.memory.check("copy from", src, bytes as u64)?;
        // SAFETY: both are inside allocations of that size.
        unsafe { std::ptr::copy(src as *const u8, dst as *mut u8, bytes) };
        Ok(())
    }

    fn zero(&self, ptr: u64, bytes: usize) -> Result<()> {
        self.memory.check("zero", ptr, bytes as u64)?;
        // SAFETY: inside an allocation of that size.
        unsafe { std::ptr::write_bytes(ptr as *mut u8, 0, bytes) };
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        runtime::run(launch, &self.options)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}
