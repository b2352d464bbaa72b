//! How far a long piece of work is: a bar on a terminal, a line a minute elsewhere; both on standard error.

use super::note;
use indicatif::{FormattedDuration, HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time between two lines where standard error is not a terminal.
const INTERVAL: Duration = Duration::from_secs(60);

/// The progress of `len` steps, images or whatever `what` works on.
pub(super) fn bar(len: usize, what: &'static str) -> Bar {
    let style = "{msg} {wide_bar} {pos}/{len} {per_sec}, {elapsed_precise} since start, {eta} left";
    Bar::new(style, State::new(what.into(), len as u64, false))
}

/// The progress of a transfer, whose name and length in bytes come later.
#[cfg(feature = "download")]
pub(super) fn bytes() -> Bar {
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    Bar::new(style, State::new(String::new(), 0, true))
}

/// The progress of one piece of work.
pub(super) enum Bar {
    /// Drawn on a terminal.
    Terminal(ProgressBar),
    /// Told line by line.
    Lines(Lines),
}

impl Bar {
    fn new(style: &str, state: State) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines(Lines::start(INTERVAL, state, note));
        }
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(Some(state.total), target);
        let style = ProgressStyle::with_template(style);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(state.what);
        bar.enable_steady_tick(Duration::from_secs(1));
        Self::Terminal(bar)
    }

    /// So many are done.
    pub(super) fn set_position(&self, done: u64) {
        match self {
            Self::Terminal(bar) => bar.set_position(done),
            Self::Lines(lines) => lines.change(|state| state.done = done),
        }
    }

    /// So many more are done.
    pub(super) fn inc(&self, more: u64) {
        match self {
            Self::Terminal(bar) => bar.inc(more),
            Self::Lines(lines) => lines.change(|state| state.done += more),
        }
    }

    /// So many there are.
    pub(super) fn set_length(&self, total: u64) {
        match self {
            Self::Terminal(bar) => bar.set_length(total),
            Self::Lines(lines) => lines.change(|state| state.total = total),
        }
    }

    /// What is worked on.
    #[cfg(feature = "download")]
    pub(super) fn set_message(&self, what: String) {
        match self {
            Self::Terminal(bar) => bar.set_message(what),
            Self::Lines(lines) => lines.change(|state| state.what = what),
        }
    }

    /// What is done by now says nothing of the time that the rest takes: it was done before.
    pub(super) fn reset_eta(&self) {
        match self {
            Self::Terminal(bar) => bar.reset_eta(),
            Self::Lines(lines) => lines.change(|state| {
                (state.before, state.since) = (state.done, Instant::now());
            }),
        }
    }

    /// Writes to standard error without tearing the bar.
    pub(super) fn suspend(&self, write: impl FnOnce()) {
        match self {
            Self::Terminal(bar) => bar.suspend(write),
            Self::Lines(_) => write(),
        }
    }

    /// Ends it; a bar leaves nothing behind.
    pub(super) fn finish_and_clear(&self) {
        if let Self::Terminal(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Tells a state at intervals as long as this lives, from a thread: the work may be silent for longer.
pub(super) struct Lines {
    state: Arc<Mutex<State>>,
    /// What ends the thread when it is dropped.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    fn start(
        interval: Duration,
        state: State,
        mut tell: impl FnMut(&str) + Send + 'static,
    ) -> Self {
        let state = Arc::new(Mutex::new(state));
        let (end, ended) = mpsc::channel::<()>();
        let told = state.clone();
        let thread = thread::spawn(move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                // A poisoned lock is one whose holder has ended the program.
                let Ok(line) = told.lock().map(|state| state.line(Instant::now())) else { return };
                tell(&line);
            }
        });
        Self { state, end: Some(end), thread: Some(thread) }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        if let Ok(mut state) = self.state.lock() {
            change(&mut state);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end.take();
        // Its last line is out before the result is printed.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// How far the work is.
struct State {
    what: String,
    done: u64,
    total: u64,
    bytes: bool,
    start: Instant,
    /// What was done at `since`, from where on time is measured.
    before: u64,
    since: Instant,
}

impl State {
    fn new(what: String, total: u64, bytes: bool) -> Self {
        let now = Instant::now();
        Self { what, done: 0, total, bytes, start: now, before: 0, since: now }
    }

    /// `attack: 12 of 200 after 00:03:00, about 00:47:00 left`.
    fn line(&self, now: Instant) -> String {
        let count = |n: u64| match self.bytes {
            true => HumanBytes(n).to_string(),
            false => n.to_string(),
        };
        let time = FormattedDuration(now - self.start);
        let line =
            format!("{}: {} of {} after {time}", self.what, count(self.done), count(self.total));
        let new = self.done.saturating_sub(self.before);
        if new == 0 || self.done > self.total {
            return line;
        }
        let each = (now - self.since).as_secs_f64() / new as f64;
        let left = Duration::from_secs_f64(each * (self.total - self.done) as f64);
        format!("{line}, about {} left", FormattedDuration(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_is_done_and_how_long_the_rest_takes() {
        let mut state = State::new("attack".into(), 200, false);
        let after = |seconds| state.start + Duration::from_secs(seconds);
        assert_eq!(state.line(after(61)), "attack: 0 of 200 after 00:01:01");
        let now = after(180);
        state.done = 12;
        assert_eq!(state.line(now), "attack: 12 of 200 after 00:03:00, about 00:47:00 left");
        // What was done before this process counts for nothing.
        (state.before, state.since) = (6, state.start);
        assert_eq!(state.line(now), "attack: 12 of 200 after 00:03:00, about 01:34:00 left");
        (state.done, state.total) = (0, 0);
        assert_eq!(state.line(now), "attack: 0 of 0 after 00:03:00");
    }

    #[test]
    fn lines_come_while_the_work_is_silent_and_end_with_it() {
        let (tell, told) = mpsc::channel();
        let state = State::new("attack".into(), 200, false);
        let lines = Lines::start(Duration::from_millis(5), state, move |line| {
            _ = tell.send(line.to_owned());
        });
        assert!(told.recv().unwrap().starts_with("attack: 0 of 200 after 00:00:0"));
        lines.change(|state| state.done = 50);
        let later = told.iter().find(|line| line.starts_with("attack: 50 of 200")).unwrap();
        assert!(later.ends_with(" left"), "{later}");
        drop(lines);
        // The thread and its end of the channel are gone.
        while told.try_recv().is_ok() {}
        assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }
}
