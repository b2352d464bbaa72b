//! The device `cuda-host`: the kernels of `kernels/*.cu`, compiled for the host and run there with checks.
//!
//! What a GPU leaves undefined is an error here: [`crate::ErrorKind::Kernel`] with the block, the thread, the mistake
//! and the source line. `kernels/host` is the runtime behind it.

mod banks;
mod lines;
mod memory;
mod options;
mod runtime;

pub use options::{HostOptions, Schedule};

use super::gpu::Gpu;
use super::launch::Launch;
use crate::{Error, Result};
use memory::Memory;
use std::sync::{Arc, OnceLock};

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
        format!("cuda-host on {}", super::doctor::cpu_name())
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
