//! The device `cuda-host`: the kernels of `kernels/*.cu`, compiled for the host and run there with checks.
//!
//! What a GPU leaves undefined is an error here: [`crate::ErrorKind::Kernel`] with the block, the thread, the mistake
//! and the source line. `kernels/host` is the runtime behind it.

use super::{Gpu, Launch};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostOptions {
    /// `REWIRE_HOST_SCHEDULE`: `fifo` (default) or `lifo`.
    pub schedule: Schedule,
    /// `REWIRE_HOST_CHECKS`: `full` (default) or `off`, which checks synchronisation only.
    pub checks: bool,
    /// `REWIRE_HOST_BUDGET`: loads, stores and meetings that one block may make before it is taken for an endless loop.
    pub budget: u64,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { schedule: Schedule::Fifo, checks: true, budget: 1 << 32 }
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
    /// Errors: [`crate::ErrorKind::Device`] where the system gives no address space.
    pub fn new(options: HostOptions) -> Result<Self> {
        Ok(Self { options, memory: Memory::get()? })
    }
}

/// Device memory: one range of addresses; what is free and what is taken of it.
struct Memory {
    base: u64,
    ranges: Mutex<Ranges>,
}

/// Offset to length, in bytes, multiples of [`GRANULE`] among the free ones.
struct Ranges {
    free: BTreeMap<u64, u64>,
    taken: BTreeMap<u64, u64>,
}

/// The unit of allocation; one stays unused behind each, so that running over the end is seen.
const GRANULE: u64 = 256;

impl Memory {
    fn get() -> Result<&'static Self> {
        static MEMORY: OnceLock<Option<Memory>> = OnceLock::new();
        let reserve = || {
            let mut bytes = 0;
            // SAFETY: called once in the process, with a place for the size.
            let base = unsafe { rewire_host_reserve(&mut bytes) };
            let ranges = Ranges { free: BTreeMap::from([(0, bytes)]), taken: BTreeMap::new() };
            (base != 0).then(|| Memory { base, ranges: Mutex::new(ranges) })
        };
        let memory = MEMORY.get_or_init(reserve).as_ref();
        memory.ok_or_else(|| Error::device("cuda-host", "no address space for device memory"))
    }

    fn ranges(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That `bytes` from `ptr` lie in one allocation.
    fn check(&self, what: &str, ptr: u64, bytes: u64) -> Result<()> {
        let offset = ptr.wrapping_sub(self.base);
        let ranges = self.ranges();
        let inside = ranges.taken.range(..=offset).next_back().is_some_and(|(&start, &len)| {
            offset.checked_add(bytes).is_some_and(|end| end <= start + len)
        });
        if inside || bytes == 0 {
            return Ok(());
        }
        let message = format!("{what} of {bytes} bytes at {ptr:#x}: outside every allocation");
        Err(Error::device("cuda-host", message))
    }
}

impl Gpu for Host {
    fn name(&self) -> &str {
        "cuda-host"
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let bytes = bytes as u64;
        let full = || Error::device("cuda-host", format!("no room for {bytes} bytes"));
        let size = bytes
            .checked_next_multiple_of(GRANULE)
            .and_then(|b| b.checked_add(GRANULE))
            .ok_or_else(full)?;
        let mut ranges = self.memory.ranges();
        let (&offset, &len) = ranges.free.iter().find(|&(_, &len)| len >= size).ok_or_else(full)?;
        ranges.free.remove(&offset);
        if len > size {
            ranges.free.insert(offset + size, len - size);
        }
        ranges.taken.insert(offset, bytes);
        drop(ranges);
        let ptr = self.memory.base + offset;
        // SAFETY: the range was free and is ours now.
        unsafe { rewire_host_allocate(ptr, bytes) };
        Ok(ptr)
    }

    fn free(&self, ptr: u64) {
        let mut ranges = self.memory.ranges();
        let mut offset = ptr.wrapping_sub(self.memory.base);
        let Some(bytes) = ranges.taken.remove(&offset) else { return };
        // SAFETY: the range was an allocation and nobody has it any more.
        unsafe { rewire_host_free(ptr, bytes) };
        let mut len = bytes.next_multiple_of(GRANULE) + GRANULE;
        if let Some(next) = ranges.free.remove(&(offset + len)) {
            len += next;
        }
        if let Some((&before, &length)) = ranges.free.range(..offset).next_back()
            && before + length == offset
        {
            offset = before;
            len += length;
        }
        ranges.free.insert(offset, len);
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
        let kernel = find(launch)?;
        let words: Vec<u64> = launch.args.iter().map(|a| a.word()).collect();
        let workers = worker_count(launch);
        let lifo = self.options.schedule == Schedule::Lifo;
        // SAFETY: `words` has one word for each parameter (the signature was compared) and outlives the launch.
        let state = State(unsafe {
            rewire_host_begin(
                kernel,
                launch.grid.as_ptr(),
                launch.block.as_ptr(),
                launch.shared,
                words.as_ptr(),
                lifo.into(),
                self.options.checks.into(),
                workers as u32,
                self.options.budget,
            )
        });
        run_blocks(&state, workers);
        let mut message = [0u8; 1024];
        // SAFETY: every worker has returned; the message ends with a zero byte.
        let failed = unsafe {
            rewire_host_end(state.0, message.as_mut_ptr().cast::<c_char>(), message.len() as u64)
        };
        if failed == 0 {
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&message).unwrap_or_default().to_string_lossy();
        Err(Error::kernel(launch.name, with_source_lines(&text)))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
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

/// Shared memory of one block on sm_90.
const SHARED_BYTES: u32 = 227 * 1024;

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

/// The message with each `{pc hex}` replaced by file and line, as the debug information has it.
fn with_source_lines(message: &str) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some((before, (pc, after))) =
        rest.split_once("{pc ").and_then(|(b, r)| Some((b, r.split_once('}')?)))
    {
        out += before;
        let place = u64::from_str_radix(pc, 16).ok().and_then(source_line);
        out += &place.unwrap_or_else(|| format!("at {pc}"));
        rest = after;
    }
    out + rest
}

/// `file.cu:12` of an address, by `addr2line`, which comes with every linker. A line of `kernels/common` also
/// names the kernel's line that it was inlined into.
fn source_line(pc: u64) -> Option<String> {
    // SAFETY: reads a number.
    let offset = pc - unsafe { rewire_host_image() };
    let program = std::env::current_exe().ok()?;
    let mut command = Command::new("addr2line");
    let output =
        command.arg("-i").arg("-e").arg(program).arg(format!("{offset:#x}")).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let place = |line: &str| {
        let place = line.split(" (").next()?.rsplit("kernels/").next()?.to_owned();
        (!place.starts_with('?') && !place.ends_with('?')).then_some(place)
    };
    let mut places = text.lines().map_while(place);
    let first = places.next()?;
    if first.starts_with("common/")
        && let Some(kernel) = places.find(|p| !p.starts_with("common/") && !p.starts_with("host/"))
    {
        return Some(format!("{first} in {kernel}"));
    }
    Some(first)
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
    fn rewire_host_reserve(bytes: *mut u64) -> u64;
    fn rewire_host_allocate(address: u64, bytes: u64);
    fn rewire_host_free(address: u64, bytes: u64);
    fn rewire_host_image() -> u64;
    fn rewire_host_kernel(name: *const c_char) -> *const Kernel;
    fn rewire_host_begin(
        kernel: *const Kernel,
        grid: *const u32,
        block: *const u32,
        dynamic_bytes: u32,
        words: *const u64,
        lifo: u32,
        checks: u32,
        workers: u32,
        budget: u64,
    ) -> *mut c_void;
    fn rewire_host_work(launch: *mut c_void);
    fn rewire_host_end(launch: *mut c_void, message: *mut c_char, length: u64) -> u32;
}
