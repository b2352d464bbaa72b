//! Seconds on the host's clock.

use crate::{Device, Result};
use std::time::Instant;

/// Seconds of one call, the device's work included.
pub(super) fn seconds(device: &Device, call: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    call()?;
    synchronize(device)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Waits for the device's work.
pub(super) fn synchronize(device: &Device) -> Result<()> {
    match device {
        Device::Cpu => Ok(()),
        Device::Gpu(gpu) => gpu.synchronize(),
    }
}

/// The middle value; 0 of none.
pub(super) fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}
