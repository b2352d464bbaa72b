//! Kernels that are loaded: one module for each file of `kernels/`, on first use.

use super::driver::{check, load};
use crate::device::kernels::{self, KernelFile};
use crate::{Error, Result};
use cudarc::driver::sys;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::ptr;

/// Shared memory that a kernel may use without asking: what it declares and what the launch adds.
const SHARED_BY_DEFAULT: u32 = 48 << 10;

/// The modules and functions of one context.
pub struct Modules {
    capability: (i32, i32),
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<&'static str, Function>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory it may use so far.
    shared: u32,
}

impl Modules {
    /// For a device of this compute capability.
    pub fn new(capability: (i32, i32)) -> Self {
        Self { capability, modules: HashMap::new(), functions: HashMap::new() }
    }

    /// The kernel `name`, allowed to use `shared` bytes of dynamic shared memory. The context must be
    /// current.
    pub fn function(&mut self, name: &'static str, shared: u32) -> Result<sys::CUfunction> {
        let mut function = match self.functions.get(name) {
            Some(function) => *function,
            None => {
                let handle = self.find(name)?;
                let declared = static_shared(handle).map_err(|why| Error::kernel(name, why))?;
                Function { handle, shared: SHARED_BY_DEFAULT.saturating_sub(declared) }
            }
        };
        if shared > function.shared {
            use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MAX;
            // SAFETY: the handle is of a module that is never unloaded.
            check(unsafe { sys::cuFuncSetAttribute(function.handle, MAX, shared as i32) })
                .map_err(|why| {
                    Error::kernel(name, format!("{shared} bytes of shared memory: {why}"))
                })?;
            function.shared = shared;
        }
        self.functions.insert(name, function);
        Ok(function.handle)
    }

    fn find(&mut self, name: &'static str) -> Result<sys::CUfunction> {
        let file = kernels::file_of(name)?;
        let module = match self.modules.get(file.name) {
            Some(module) => *module,
            None => load_file(file, file.arch(self.capability))?,
        };
        self.modules.insert(file.name, module);
        let symbol = CString::new(name).map_err(|e| Error::kernel(name, e.to_string()))?;
        let mut handle = ptr::null_mut();
        // SAFETY: `handle` is written; the module is loaded.
        check(unsafe { sys::cuModuleGetFunction(&mut handle, module, symbol.as_ptr()) })
            .map_err(|why| Error::kernel(name, why))?;
        Ok(handle)
    }
}

/// Bytes of shared memory that the kernel itself declares.
fn static_shared(function: sys::CUfunction) -> std::result::Result<u32, String> {
    use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as BYTES;
    let mut bytes = 0;
    // SAFETY: `bytes` is written; the handle is of a module that is never unloaded.
    check(unsafe { sys::cuFuncGetAttribute(&mut bytes, BYTES, function) })?;
    Ok(bytes.unsigned_abs())
}

/// Loads the embedded PTX; where there is none, or the driver is older than the NVRTC that made it,
/// what this machine's NVRTC makes of the source.
fn load_file(file: &KernelFile, arch: &str) -> Result<sys::CUmodule> {
    if let Some(ptx) = file.embedded(arch) {
        match load_ptx(ptx) {
            Err(LoadError::UnsupportedPtxVersion) => {}
            loaded => return loaded.map_err(|e| Error::kernel(file.name, e.message(ptx))),
        }
    }
    let ptx = file.compile(arch).map_err(|e| match file.embedded(arch) {
        Some(ptx) => Error::kernel(
            file.name,
            format!("{}; {e}", LoadError::UnsupportedPtxVersion.message(ptx)),
        ),
        None => e,
    })?;
    load_ptx(&ptx).map_err(|e| Error::kernel(file.name, e.message(&ptx)))
}

enum LoadError {
    UnsupportedPtxVersion,
    Other(String),
}

impl LoadError {
    fn message(self, ptx: &str) -> String {
        let Self::Other(message) = self else {
            let made_by = made_by(ptx).unwrap_or("a newer NVRTC");
            let driver = load().map_or(String::new(), |(major, minor)| format!(" {major}.{minor}"));
            return format!(
                "its PTX is by {made_by}, newer than this machine's driver (CUDA{driver}); update the driver, \
                 or install an NVRTC no newer than it"
            );
        };
        message
    }
}

/// NVRTC's name for itself in its output, e.g. `Cuda compilation tools, release 13.0, V13.0.88`.
fn made_by(ptx: &str) -> Option<&str> {
    ptx.lines().find_map(|line| line.strip_prefix("// Cuda compilation tools, ")).map(str::trim)
}

fn load_ptx(ptx: &str) -> std::result::Result<sys::CUmodule, LoadError> {
    use sys::CUjit_option_enum::{CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    let image = CString::new(ptx).map_err(|e| LoadError::Other(e.to_string()))?;
    let mut log = vec![0u8; 8192];
    let mut options = [CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] =
        [log.as_mut_ptr().cast(), ptr::without_provenance_mut(log.len())];
    let mut module = ptr::null_mut();
    // SAFETY: the image is NUL-terminated PTX; `log` holds as many bytes as the second option says, and
    // a number is passed as the pointer's value, as the driver wants it.
    let status = unsafe {
        sys::cuModuleLoadDataEx(
            &mut module,
            image.as_ptr().cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    if status == sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION {
        return Err(LoadError::UnsupportedPtxVersion);
    }
    check(status).map(|()| module).map_err(|why| {
        let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
        LoadError::Other(format!("{why}\n{log}").trim().to_owned())
    })
}
