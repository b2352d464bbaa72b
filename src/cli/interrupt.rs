//! Ctrl-C, SIGTERM and SIGHUP: the first stops the work at the next point where it can be resumed, a later one at once.

use super::note;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static STOP: AtomicBool = AtomicBool::new(false);

/// Signals that come this soon after the first are the same request: `timeout`, and some job schedulers, send it both to the
/// process and to its group.
const SAME: Duration = Duration::from_secs(1);

/// Becomes true at the first Ctrl-C (SIGINT), SIGTERM or SIGHUP, which prints `what` happens now. A SIGHUP that was ignored
/// when the program started, as under `nohup`, stays ignored.
pub(super) fn flag(what: &'static str) -> &'static AtomicBool {
    let hangup_is_ignored = hangup::is_ignored();
    let first = OnceLock::new();
    // An error means that a handler is there already: this one.
    let _ = ctrlc::set_handler(move || {
        let first = *first.get_or_init(Instant::now);
        if !STOP.swap(true, Ordering::Relaxed) {
            note(&format!("{what}; a second Ctrl-C or signal ends the program at once"));
        } else if first.elapsed() >= SAME {
            std::process::exit(130);
        }
    });
    if hangup_is_ignored {
        hangup::ignore();
    }
    &STOP
}

#[cfg(unix)]
mod hangup {
    /// Whether SIGHUP is ignored.
    pub(super) fn is_ignored() -> bool {
        // SAFETY: all zeros are a valid `sigaction`; with no new action the call only writes the old one to `old`, which lives
        // until it returns.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut old) == 0
                && old.sa_sigaction == libc::SIG_IGN
        }
    }

    /// Ignores SIGHUP.
    pub(super) fn ignore() {
        // SAFETY: SIG_IGN is a valid action for SIGHUP, and no handler of this program is called for it any more.
        unsafe {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
        }
    }
}

#[cfg(not(unix))]
mod hangup {
    pub(super) fn is_ignored() -> bool {
        false
    }

    pub(super) fn ignore() {}
}
