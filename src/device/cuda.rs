//! The device `cuda:N`: kernels through the CUDA driver, all on one stream.

mod driver;
mod modules;
mod pool;
mod staging;

pub use driver::{CudaDevice, devices, load as driver_version};

use super::gpu::Gpu;
use super::launch::{Arg, Launch};
use crate::{Error, Result};
use cudarc::driver::sys;
use driver::check;
use modules::Modules;
use pool::{Pool, size_class};
use staging::Staging;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_uint, c_void};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// A CUDA device with its primary context, one stream, a pool of memory and the modules loaded so far.
pub struct Cuda {
    name: String,
    /// The product's name and the driver's version.
    model: String,
    context: sys::CUcontext,
    stream: sys::CUstream,
    state: Mutex<State>,
    /// Signalled when a recording ends.
    recorded: Condvar,
}

// SAFETY: context and stream are handles that the driver allows on every thread; each call makes the
// context current on its thread first, and `state`, with its events and its pinned memory, is behind a lock.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

struct State {
    pool: Pool,
    staging: Staging,
    modules: Modules,
    recording: Option<Recording>,
    graphs: HashMap<u64, sys::CUgraphExec>,
    last_graph: u64,
}

/// Launches of `thread` go into graph number `graph`; other threads wait.
#[derive(Clone, Copy)]
struct Recording {
    graph: u64,
    thread: ThreadId,
}

/// The device `cuda:ordinal`, the same one for every caller in the process.
///
/// Errors: [`crate::ErrorKind::Device`] in one line: no driver, no such device, a device that is too old.
pub fn open(ordinal: usize) -> Result<Arc<Cuda>> {
    static OPEN: Mutex<BTreeMap<usize, Arc<Cuda>>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&ordinal) {
        return Ok(device.clone());
    }
    let device = Arc::new(Cuda::new(ordinal)?);
    open.insert(ordinal, device.clone());
    Ok(device)
}

impl Cuda {
    fn new(ordinal: usize) -> Result<Self> {
        let info = driver::usable(ordinal)?;
        let failed = |why| Error::device(&info.device, why);
        let (mut device, mut context, mut stream) = (0, ptr::null_mut(), ptr::null_mut());
        // SAFETY: the driver is loaded and the ordinal exists; every call writes what it is given. The
        // primary context and the stream live as long as the process.
        unsafe {
            check(sys::cuDeviceGet(&mut device, ordinal as i32)).map_err(failed)?;
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device)).map_err(failed)?;
            check(sys::cuCtxSetCurrent(context)).map_err(failed)?;
            let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as c_uint;
            check(sys::cuStreamCreate(&mut stream, flags)).map_err(failed)?;
        }
        let state = State {
            pool: Pool::default(),
            staging: Staging::default(),
            modules: Modules::new(info.capability),
            recording: None,
            graphs: HashMap::new(),
            last_graph: 0,
        };
        let (major, minor) = driver_version().map_err(|why| Error::device(&info.device, why))?;
        Ok(Self {
            model: format!("{}, CUDA {major}.{minor}", info.name),
            name: info.device,
            context,
            stream,
            state: Mutex::new(state),
            recorded: Condvar::new(),
        })
    }

    fn failed(&self, what: &str) -> impl Fn(String) -> Error {
        move |why| Error::device(&self.name, format!("{what}: {why}"))
    }

    /// The state, with this device's context current on this thread.
    fn lock(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the context is valid for the life of the process.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }).map_err(self.failed("context"))?;
        Ok(state)
    }

    /// As [`Cuda::lock`], for calls on the stream: waits while another thread records.
    fn lock_stream(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock()?;
        while state.recording.is_some_and(|r| r.thread != thread::current().id()) {
            state = self.recorded.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }

    /// As [`Cuda::lock_stream`], for calls that the host takes part in and a graph cannot hold.
    fn lock_host(&self, what: &str) -> Result<MutexGuard<'_, State>> {
        let state = self.lock_stream()?;
        match state.recording {
            None => Ok(state),
            Some(_) => Err(Error::device(&self.name, format!("{what} while a graph is recorded"))),
        }
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the stream is valid for the life of the process.
        check(unsafe { sys::cuStreamSynchronize(self.stream) }).map_err(
            self.failed("a kernel failed (CUDA_LAUNCH_BLOCKING=1 makes its own launch report it)"),
        )
    }
}

impl State {
    /// The recording that this thread's allocations belong to.
    fn graph(&self) -> Option<u64> {
        self.recording.filter(|r| r.thread == thread::current().id()).map(|r| r.graph)
    }

    fn hold(&mut self, ptrs: impl IntoIterator<Item = u64>) {
        if let Some(graph) = self.graph() {
            ptrs.into_iter().for_each(|ptr| self.pool.hold(ptr, graph));
        }
    }
}

impl Gpu for Cuda {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> String {
        self.model.clone()
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let mut state = self.lock()?;
        let graph = state.graph();
        if let Some(ptr) = state.pool.take(bytes, graph) {
            return Ok(ptr);
        }
        let mut ptr = 0;
        let size = size_class(bytes);
        // SAFETY: `ptr` is written.
        let mut status = unsafe { sys::cuMemAlloc_v2(&mut ptr, size) };
        if status == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY && state.recording.is_none() {
            self.wait()?;
            for free in state.pool.drain() {
                // SAFETY: `free` is memory of cuMemAlloc that nobody has, and the stream is idle.
                check(unsafe { sys::cuMemFree_v2(free) }).map_err(self.failed("free"))?;
            }
            // SAFETY: as above.
            status = unsafe { sys::cuMemAlloc_v2(&mut ptr, size) };
        }
        check(status).map_err(self.failed(&format!("{bytes} bytes of memory")))?;
        state.pool.adopt(ptr, bytes, graph);
        Ok(ptr)
    }

    fn free(&self, ptr: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let graph = state.graph();
        state.pool.give(ptr, graph);
    }

    fn upload(&self, dst: u64, src: &[u8]) -> Result<()> {
        let mut state = self.lock_host("upload")?;
        if src.is_empty() {
            return Ok(());
        }
        state.staging.upload(dst, src, self.stream).map_err(self.failed("upload"))
    }

    fn download(&self, src: u64, dst: &mut [u8]) -> Result<()> {
        let _state = self.lock_host("download")?;
        if dst.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller has `dst.len()` bytes at `src`; `dst` is borrowed until the copy is over.
        check(unsafe {
            sys::cuMemcpyDtoHAsync_v2(dst.as_mut_ptr().cast(), src, dst.len(), self.stream)
        })
        .map_err(self.failed("download"))?;
        self.wait()
    }

    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        let mut state = self.lock_stream()?;
        if bytes == 0 {
            return Ok(());
        }
        state.hold([dst, src]);
        // SAFETY: the caller has `bytes` bytes at both.
        check(unsafe { sys::cuMemcpyDtoDAsync_v2(dst, src, bytes, self.stream) })
            .map_err(self.failed("copy"))
    }

    fn zero(&self, ptr: u64, bytes: usize) -> Result<()> {
        let mut state = self.lock_stream()?;
        if bytes == 0 {
            return Ok(());
        }
        state.hold([ptr]);
        // SAFETY: the caller has `bytes` bytes at `ptr`.
        check(unsafe { sys::cuMemsetD8Async(ptr, 0, bytes, self.stream) })
            .map_err(self.failed("zero"))
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let mut state = self.lock_stream()?;
        state.hold(launch.args.iter().filter_map(|arg| match arg {
            Arg::Ptr(ptr) => Some(*ptr),
            _ => None,
        }));
        let function = state.modules.function(launch.name, launch.shared)?;
        let mut words: Vec<u64> = launch.args.iter().map(Arg::word).collect();
        let mut params: Vec<*mut c_void> =
            words.iter_mut().map(|word| ptr::from_mut(word).cast()).collect();
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        // SAFETY: the parameters are as many and as wide as the kernel's: the same launch code runs on
        // `cuda-host`, which compares them with the kernel's C++ types. What the kernel does with its
        // pointers is the kernel's contract, checked there too.
        check(unsafe {
            sys::cuLaunchKernel(
                function,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                launch.shared,
                self.stream,
                params.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
        .map_err(|why| {
            let (grid, block, shared) = (launch.grid, launch.block, launch.shared);
            let shape = format!("grid {grid:?}, block {block:?}, {shared} bytes of shared memory");
            Error::kernel(launch.name, format!("{why} ({shape})"))
        })
    }

    fn synchronize(&self) -> Result<()> {
        let _state = self.lock_host("synchronize")?;
        self.wait()
    }

    fn records_graphs(&self) -> bool {
        true
    }

    fn begin_graph(&self) -> Result<()> {
        let mut state = self.lock_host("another graph")?;
        // Relaxed: the pool may have to ask the driver for memory during the recording.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is valid and not being captured.
        check(unsafe { sys::cuStreamBeginCapture_v2(self.stream, mode) })
            .map_err(self.failed("graph"))?;
        state.last_graph += 1;
        state.recording =
            Some(Recording { graph: state.last_graph, thread: thread::current().id() });
        Ok(())
    }

    fn end_graph(&self) -> Result<u64> {
        let mut state = self.lock_stream()?;
        let Some(Recording { graph: id, .. }) = state.recording.take() else {
            return Err(Error::device(&self.name, "no graph is being recorded"));
        };
        state.pool.end_recording();
        self.recorded.notify_all();
        let (mut graph, mut exec) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: this thread began the capture; the graph is a template, gone once instantiated.
        let status = unsafe {
            check(sys::cuStreamEndCapture(self.stream, &mut graph)).and_then(|()| {
                let made = check(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
                made.and(check(sys::cuGraphDestroy(graph)))
            })
        };
        if let Err(why) = status {
            state.pool.drop_graph(id);
            return Err(self.failed("graph")(why));
        }
        state.graphs.insert(id, exec);
        Ok(id)
    }

    fn launch_graph(&self, graph: u64) -> Result<()> {
        let state = self.lock_host("another graph")?;
        let Some(&exec) = state.graphs.get(&graph) else {
            return Err(Error::device(&self.name, format!("there is no graph {graph}")));
        };
        // SAFETY: the graph is instantiated, and the pool keeps the memory it uses.
        check(unsafe { sys::cuGraphLaunch(exec, self.stream) }).map_err(self.failed("graph"))
    }

    fn free_graph(&self, graph: u64) {
        let Ok(mut state) = self.lock_stream() else { return };
        let Some(exec) = state.graphs.remove(&graph) else { return };
        if state.recording.is_none() {
            // A failure of what ran before is reported by the next call that waits.
            let _ = self.wait();
        }
        // SAFETY: instantiated by end_graph and just removed; nothing can launch it any more.
        unsafe { sys::cuGraphExecDestroy(exec) };
        state.pool.drop_graph(graph);
    }
}
