//! Launches of `cuda-host`: what `kernels/host/launch.cpp` is asked to do.

use super::{HostOptions, Schedule, banks, lines};
use crate::device::Launch;
use crate::{Error, Result};
use std::ffi::{CStr, CString, c_char, c_void};

/// Shared memory of one block on sm_90.
const SHARED_BYTES: u32 = 227 * 1024;

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

/// The kernel, once its signature, block and shared memory are known to fit.
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
    let threads = launch.block.iter().map(|&n| u64::from(n)).product::<u64>();
    if threads == 0 || threads > u64::from(kernel.max_threads) {
        return fail(format!(
            "a block of {threads} threads; __launch_bounds__ allows 1 to {}",
            kernel.max_threads
        ));
    }
    let [x, y, z] = launch.grid;
    if x == 0 || y == 0 || z == 0 || x > i32::MAX as u32 || y > 65_535 || z > 65_535 {
        return fail(format!(
            "a grid of {x} x {y} x {z} blocks; 1 to 2^31-1 x 65535 x 65535 are possible"
        ));
    }
    if launch.shared > SHARED_BYTES {
        return fail(format!(
            "{} bytes of dynamic shared memory, the limit is {SHARED_BYTES}",
            launch.shared
        ));
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

/// `host::Kernel` of `kernels/host/shim.h`.
#[repr(C)]
struct Kernel {
    name: *const c_char,
    signature: *const c_char,
    max_threads: u32,
    run: *const c_void,
}

unsafe extern "C" {
    fn rewire_host_kernel(name: *const c_char) -> *const Kernel;
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
