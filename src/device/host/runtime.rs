//! Launches of `cuda-host`: what `kernels/host/launch.cpp` is asked to do.

use super::options::{HostOptions, Schedule};
use super::{banks, lines};
use crate::device::launch::Launch;
use crate::{Error, Result};
use std::ffi::{CStr, CString, c_char, c_void};

/// The compute capability whose limits hold: 9.0.
const CAPABILITY: u32 = 90;

/// Runs all blocks of the launch; the first mistake that a check finds is the error.
pub(super) fn run(launch: &Launch, options: &HostOptions) -> Result<()> {
    let kernel = find(launch)?;
    let words: Vec<u64> = launch.args.iter().map(|a| a.word()).collect();
    let workers = if options.banks.is_some() { 1 } else { worker_count(launch) };
    // SAFETY: `words` has one word for each parameter (the signature was compared) and outlives the launch.
    let state = State(unsafe {
        rewire_host_begin(
            kernel,
            launch.grid.as_ptr(),
            launch.block.as_ptr(),
            launch.shared,
            words.as_ptr(),
            (options.schedule == Schedule::Lifo).into(),
            (options.checks || options.banks.is_some()).into(),
            options.banks.is_some().into(),
            workers as u32,
            options.budget,
        )
    });
    run_blocks(&state, workers);
    let conflicts = options.banks.as_deref().map(|file| (file, banks::counts(state.0)));
    let mut message = [0u8; 1024];
    let (text, length) = (message.as_mut_ptr().cast::<c_char>(), message.len() as u64);
    // SAFETY: every worker has returned; the message ends with a zero byte.
    if unsafe { rewire_host_end(state.0, text, length) } == 0 {
        return conflicts
            .map_or(Ok(()), |(file, counts)| banks::append(file, launch.name, &counts));
    }
    let text = CStr::from_bytes_until_nul(&message).unwrap_or_default().to_string_lossy();
    Err(Error::kernel(launch.name, lines::resolve(&text)))
}

/// The kernel, once its signature is known to fit, and a GPU would take the launch.
fn find(launch: &Launch) -> Result<*const Kernel> {
    let fail = |message: String| Err(Error::kernel(launch.name, message));
    let Ok(name) = CString::new(launch.name) else { return fail("no such entry point".into()) };
    // SAFETY: a zero-ended name in; a static entry or null out.
    let Some(kernel) = (unsafe { rewire_host_kernel(name.as_ptr()).as_ref() }) else {
        return fail("no such entry point".into());
    };
    // SAFETY: a static zero-ended string.
    let want = unsafe { CStr::from_ptr(kernel.signature) }.to_string_lossy();
    let got: String = launch.args.iter().map(|a| a.letter()).collect();
    if want != got {
        return fail(format!(
            "arguments are `{got}`, the kernel's parameters are `{want}` \
             (p pointer, i i32, u u32, l i64, m u64, f f32)"
        ));
    }
    let mut message = [0u8; 256];
    let (text, length) = (message.as_mut_ptr().cast::<c_char>(), message.len() as u64);
    let (grid, block) = (launch.grid.as_ptr(), launch.block.as_ptr());
    // SAFETY: a static entry, three numbers behind each pointer, and a buffer of that length, which gets a string.
    let refused = unsafe {
        rewire_host_refuses(kernel, grid, block, launch.shared, CAPABILITY, text, length)
    };
    if refused != 0 {
        let text = CStr::from_bytes_until_nul(&message).unwrap_or_default().to_string_lossy();
        return fail(text.into_owned());
    }
    Ok(kernel)
}

/// A launch under way.
struct State(*mut c_void);

// SAFETY: workers share the launch through atomics only.
unsafe impl Sync for State {}

/// How many OS threads run the blocks of a launch: one for a few blocks.
fn worker_count(launch: &Launch) -> u64 {
    let blocks = launch.grid.iter().map(|&n| u64::from(n)).product::<u64>();
    (blocks / 4).min(16).min(rayon::current_num_threads() as u64).max(1)
}

/// Runs all blocks, here and on other threads of the pool.
fn run_blocks(state: &State, workers: u64) {
    // SAFETY: the launch lives until rewire_host_end, after the scope.
    let work = move || unsafe { rewire_host_work(state.0) };
    rayon::in_place_scope(|scope| {
        for _ in 1..workers {
            scope.spawn(move |_| work());
        }
        work();
    });
}

/// The beginning of `host::Kernel` of `kernels/host/shim.h`; it is never made or copied here.
#[repr(C)]
struct Kernel {
    name: *const c_char,
    signature: *const c_char,
}

unsafe extern "C" {
    fn rewire_host_kernel(name: *const c_char) -> *const Kernel;
    fn rewire_host_refuses(
        kernel: *const Kernel,
        grid: *const u32,
        block: *const u32,
        dynamic_bytes: u32,
        capability: u32,
        message: *mut c_char,
        length: u64,
    ) -> u32;
    fn rewire_host_begin(
        kernel: *const Kernel,
        grid: *const u32,
        block: *const u32,
        dynamic_bytes: u32,
        words: *const u64,
        lifo: u32,
        checks: u32,
        banks: u32,
        workers: u32,
        budget: u64,
    ) -> *mut c_void;
    fn rewire_host_work(launch: *mut c_void);
    fn rewire_host_end(launch: *mut c_void, message: *mut c_char, length: u64) -> u32;
}
