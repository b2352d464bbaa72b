//! Bank conflicts of a launch: `kernels/host/banks.cpp` counts them by instruction, a file gets them as lines.

use super::lines;
use crate::{Error, Result};
use std::ffi::c_void;
use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;

/// `host::BankCount` of `kernels/host/banks.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct BankCount {
    pc: u64,
    kind: u32,
    unused: u32,
    requests: u64,
    extra: u64,
}

/// Names of `host::Kind`.
const KINDS: [&str; 5] = ["load", "store", "atomic", "ldmatrix", "cp.async"];

/// What a launch has counted, its blocks all run.
pub(super) fn counts(launch: *const c_void) -> Vec<BankCount> {
    // SAFETY: no room, so nothing is written; the launch lives until rewire_host_end.
    let len = unsafe { rewire_host_banks(launch, std::ptr::null_mut(), 0) };
    let mut counts = vec![BankCount::default(); len as usize];
    // SAFETY: as many as there is room for are written, each a BankCount.
    unsafe { rewire_host_banks(launch, counts.as_mut_ptr(), len) };
    counts
}

/// Appends `kernel kind requests extra`, with the source line where `extra` is not 0.
pub(super) fn append(file: &Path, kernel: &str, counts: &[BankCount]) -> Result<()> {
    let mut text = String::new();
    for &BankCount { pc, kind, requests, extra, .. } in counts {
        let kind = KINDS.get(kind as usize).copied().unwrap_or_default();
        let _ = write!(text, "{kernel} {kind} {requests} {extra}");
        if extra > 0 {
            text += &lines::resolve(&format!(" {{pc {:x}|?}}", pc - 1));
        }
        text.push('\n');
    }
    let append = || {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
        file.write_all(text.as_bytes())
    };
    append().map_err(|e| Error::io(file, e))
}

unsafe extern "C" {
    fn rewire_host_banks(launch: *const c_void, out: *mut BankCount, room: u64) -> u64;
}
