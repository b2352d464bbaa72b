//! The CUDA driver: whether it is there, what it says, its errors as text. Nothing here panics:
//! `cudarc` would, so its functions are called only after [`load`] has found the library and every
//! symbol in it.

use crate::{Error, Result};
use cudarc::driver::sys;
use serde::Serialize;
use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

/// Everything of the driver that this crate calls.
const SYMBOLS: [&str; 34] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamSynchronize",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
];

/// A CUDA device of this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CudaDevice {
    /// `cuda:0`
    pub device: String,
    /// The product's name.
    pub name: String,
    /// Compute capability (major, minor).
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
    /// Largest shared memory of a block in bytes.
    pub shared_memory_per_block: i32,
    /// Device memory in bytes.
    pub memory: u64,
}

/// Loads and initialises the driver, once; gives its CUDA version, e.g. (13, 0).
///
/// Errors: one line that says what is missing.
pub fn load() -> std::result::Result<(i32, i32), &'static str> {
    static LOADED: OnceLock<std::result::Result<(i32, i32), String>> = OnceLock::new();
    LOADED.get_or_init(initialise).as_ref().copied().map_err(String::as_str)
}

fn initialise() -> std::result::Result<(i32, i32), String> {
    // SAFETY: opens and closes shared libraries of the driver's names.
    if !unsafe { sys::is_culib_present() } {
        return Err("no CUDA driver on this machine (libcuda.so.1)".to_owned());
    }
    for symbol in SYMBOLS {
        // SAFETY: the symbol is looked up, not called.
        let found = unsafe { sys::culib().get::<unsafe extern "C" fn()>(symbol.as_bytes()) };
        if found.is_err() {
            return Err(format!("the CUDA driver is too old: it has no {symbol}; update it"));
        }
    }
    let mut version = 0;
    // SAFETY: cuInit(0) comes before everything else; `version` is written.
    unsafe {
        check(sys::cuInit(0)).map_err(|e| format!("cuInit: {e}"))?;
        check(sys::cuDriverGetVersion(&mut version))?;
    }
    Ok((version / 1000, version % 1000 / 10))
}

/// An error code as `NAME: text`.
pub fn check(status: sys::CUresult) -> std::result::Result<(), String> {
    if status == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let text = |get: unsafe fn(sys::CUresult, *mut *const c_char) -> sys::CUresult| {
        let mut at = std::ptr::null();
        // SAFETY: on success `at` is a NUL-terminated string that the driver owns.
        unsafe {
            (get(status, &mut at) == sys::CUresult::CUDA_SUCCESS && !at.is_null())
                .then(|| CStr::from_ptr(at).to_string_lossy().into_owned())
        }
    };
    let name = text(sys::cuGetErrorName).unwrap_or_else(|| format!("{status:?}"));
    Err(match text(sys::cuGetErrorString) {
        Some(message) => format!("{name}: {message}"),
        None => name,
    })
}

/// The CUDA devices of this machine.
pub fn devices() -> std::result::Result<Vec<CudaDevice>, String> {
    load()?;
    let mut count = 0;
    // SAFETY: `count` is written.
    check(unsafe { sys::cuDeviceGetCount(&mut count) })?;
    (0..count).map(|ordinal| describe(ordinal as usize)).collect()
}

/// Device number `ordinal`, which must be there.
fn describe(ordinal: usize) -> std::result::Result<CudaDevice, String> {
    use sys::CUdevice_attribute_enum as Attribute;
    let mut device = 0;
    let mut name = [0u8; 256];
    let mut memory = 0usize;
    // SAFETY: every call writes what it is given; a name is cut at 255 bytes and a NUL.
    unsafe {
        check(sys::cuDeviceGet(&mut device, ordinal as c_int))?;
        check(sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device))?;
        check(sys::cuDeviceTotalMem_v2(&mut memory, device))?;
    }
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: `value` is written.
        check(unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) }).map(|()| value)
    };
    Ok(CudaDevice {
        device: format!("cuda:{ordinal}"),
        name: CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned(),
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_memory_per_block: attribute(
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?,
        memory: memory as u64,
    })
}

/// Device number `ordinal`, if it can run the kernels.
///
/// Errors: [`crate::ErrorKind::Device`] in one line.
pub fn usable(ordinal: usize) -> Result<CudaDevice> {
    let failed = |message: String| Error::device(format!("cuda:{ordinal}"), message);
    let found = devices().map_err(|why| failed(format!("{why} (use --device cpu)")))?;
    let count = found.len();
    let device = found.into_iter().nth(ordinal).ok_or_else(|| {
        failed(format!("this machine has {count} CUDA device(s), counted from 0"))
    })?;
    if device.capability < (8, 0) {
        let (major, minor) = device.capability;
        let name = &device.name;
        return Err(failed(format!(
            "{name} has compute capability {major}.{minor}, the kernels need 8.0 or newer (use --device cpu)"
        )));
    }
    Ok(device)
}
