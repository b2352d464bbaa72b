//! The device of a plan as a GPU, and how long calls take on it.

use crate::device::Gpu;
use crate::{Device, Error, Result};
use std::time::Instant;

/// Calls that are timed together where calls only queue.
const LAUNCHES: usize = 5;

pub(super) fn gpu(device: &Device) -> Result<&dyn Gpu> {
    match device {
        Device::Gpu(gpu) => Ok(gpu.as_ref()),
        Device::Cpu => Err(Error::device("cpu", "a plan for GPUs")),
    }
}

/// What a call gives, and its seconds: the mean of some on a device where calls only queue.
pub(super) fn timed<T>(device: &Device, call: impl Fn() -> Result<T>) -> Result<(T, f64)> {
    let gpu = gpu(device)?;
    let count = if gpu.records_graphs() { LAUNCHES } else { 1 };
    gpu.synchronize()?;
    let start = Instant::now();
    let mut result = call()?;
    for _ in 1..count {
        result = call()?;
    }
    gpu.synchronize()?;
    Ok((result, start.elapsed().as_secs_f64() / count as f64))
}
