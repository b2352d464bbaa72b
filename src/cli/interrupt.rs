//! Ctrl-C: the first stops at the next resumable point, the second at once.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// Becomes true at the first Ctrl-C, which prints what happens now.
pub(super) fn flag(what: &'static str) -> &'static AtomicBool {
    // An error means that a handler is there already: this one.
    let _ = ctrlc::set_handler(move || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("{what}; Ctrl-C again ends at once");
    });
    &STOP
}
