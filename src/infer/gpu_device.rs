//! The device of a plan as a GPU, and how long calls take on it.

use crate::device::Gpu;
use crate::{Device, Error, Result};
use std::time::Instant;

/// Seconds that calls timed together take at least where calls only queue: what the first launch and the last wait cost,
/// some 10 µs, is then nothing beside them.
const LEAST_SECONDS: f64 = 2e-3;
/// Calls that are timed together at most.
const MOST_CALLS: usize = 1 << 14;

pub(super) fn gpu(device: &Device) -> Result<&dyn Gpu> {
    match device {
        Device::Gpu(gpu) => Ok(gpu.as_ref()),
        Device::Cpu => Err(Error::device("cpu", "a plan for GPUs")),
    }
}

/// What a call gives, and its seconds: the mean of many on a device where calls only queue.
pub(super) fn timed<T>(device: &Device, call: impl Fn() -> Result<T>) -> Result<(T, f64)> {
    let gpu = gpu(device)?;
    let together = |count: usize| {
        gpu.synchronize()?;
        let start = Instant::now();
        let mut result = call()?;
        for _ in 1..count {
            result = call()?;
        }
        gpu.synchronize()?;
        Ok((result, start.elapsed().as_secs_f64()))
    };
    if gpu.records_graphs() { mean_of_many(together) } else { together(1) }
}

/// What `together` gives, and the seconds of one of its calls: it makes as many calls as it is told to and says what all
/// took. One call, which loads the kernels, does not count; then twice as many each time, until they take long enough.
fn mean_of_many<T>(together: impl Fn(usize) -> Result<(T, f64)>) -> Result<(T, f64)> {
    together(1)?;
    let mut count = 1;
    loop {
        let (result, seconds) = together(count)?;
        if seconds >= LEAST_SECONDS || count >= MOST_CALLS {
            return Ok((result, seconds / count as f64));
        }
        count *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    /// The mean by a clock on which the first call loads for a second, each call takes `each`, and the wait 20 µs; with
    /// the numbers of calls that were timed together.
    fn by_clock(each: f64) -> (f64, Vec<usize>) {
        let (counts, loaded) = (RefCell::new(Vec::new()), Cell::new(false));
        let together = |count: usize| {
            counts.borrow_mut().push(count);
            let loading = if loaded.replace(true) { 0.0 } else { 1.0 };
            Ok(((), loading + 20e-6 + count as f64 * each))
        };
        let seconds = mean_of_many(together).unwrap().1;
        (seconds, counts.into_inner())
    }

    #[test]
    fn so_many_calls_are_timed_that_the_wait_does_not_count() {
        for each in [1.5e-6, 2e-6, 50e-6, 1e-3] {
            let seconds = by_clock(each).0;
            assert!((seconds / each - 1.0).abs() < 0.011, "{seconds:e} for {each:e}");
        }
        // Of five calls the wait would be most.
        assert!(by_clock(2e-6).0 > 1.3 * by_clock(1.5e-6).0);
        assert_eq!(by_clock(0.3).1, [1, 1]);
        assert_eq!(by_clock(300e-6).1, [1, 1, 2, 4, 8]);
    }

    #[test]
    fn a_clock_that_stands_still_ends() {
        let together = |_| Ok(((), 0.0));
        assert_eq!(mean_of_many(together).unwrap().1, 0.0);
    }

    #[test]
    fn an_error_of_a_call_is_the_error() {
        let together = |_| -> Result<((), f64)> { Err(Error::param("a", "b", "c")) };
        assert!(mean_of_many(together).is_err());
    }
}
