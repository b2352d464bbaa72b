//! How the host runs kernels, from the environment.

use crate::{Error, Result};
use std::path::PathBuf;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOptions {
    /// `REWIRE_HOST_SCHEDULE`: `fifo` (default) or `lifo`.
    pub schedule: Schedule,
    /// `REWIRE_HOST_CHECKS`: `full` (default) or `off`, for measurements: only what could damage the
    /// process, meetings and what the compiler sees are then checked.
    pub checks: bool,
    /// `REWIRE_HOST_BUDGET`: loads, stores and meetings that one block may make before it is taken for an endless loop.
    pub budget: u64,
    /// `REWIRE_HOST_BANKS`: a file to which each launch appends its bank conflicts, a line for each instruction that
    /// touches shared memory: `kernel kind requests extra [place]`. Checks are then on, and blocks run one by one.
    pub banks: Option<PathBuf>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { schedule: Schedule::Fifo, checks: true, budget: 1 << 32, banks: None }
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
        options.banks = var("REWIRE_HOST_BANKS").map(PathBuf::from);
        Ok(options)
    }
}
