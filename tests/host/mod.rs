//! The device `cuda-host`: its checks find kernels that are wrong on purpose, and its twins equal the instructions.

mod banks;
mod device;
mod right;
mod speed;
mod twins;
mod wrong;

use rewire::device::host::{Host, HostOptions, Schedule};
use rewire::device::{Arg, Gpu, KernelArg};

/// Device memory that is freed with the value.
struct Buffer<'a> {
    gpu: &'a Host,
    ptr: u64,
    len: usize,
}

impl<'a> Buffer<'a> {
    fn new(gpu: &'a Host, bytes: usize) -> Self {
        Self { gpu, ptr: gpu.alloc(bytes).unwrap(), len: bytes }
    }

    fn of<T: bytemuck::NoUninit>(gpu: &'a Host, values: &[T]) -> Self {
        let buffer = Self::new(gpu, size_of_val(values));
        gpu.upload(buffer.ptr, bytemuck::cast_slice(values)).unwrap();
        buffer
    }

    fn get<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self) -> Vec<T> {
        let mut out = vec![T::zeroed(); self.len / size_of::<T>()];
        self.gpu.download(self.ptr, bytemuck::cast_slice_mut(&mut out)).unwrap();
        out
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.gpu.free(self.ptr);
    }
}

impl KernelArg for Buffer<'_> {
    fn arg(&self) -> Arg {
        Arg::Ptr(self.ptr)
    }
}

/// Any address.
struct Place(u64);

impl KernelArg for Place {
    fn arg(&self) -> Arg {
        Arg::Ptr(self.0)
    }
}

/// The device under both schedules.
fn both() -> [Host; 2] {
    [Schedule::Fifo, Schedule::Lifo]
        .map(|schedule| Host::new(HostOptions { schedule, ..HostOptions::default() }).unwrap())
}
