//! What every command is given, and how it answers.

use crate::error::printable;
use crate::{Device, Mode, Seed};
use serde::Serialize;
use std::io::Write;

/// Flags of every command.
#[derive(clap::Args)]
pub(super) struct Global {
    /// Seed of every random stream [default: 1]
    #[arg(long, global = true, value_name = "N")]
    seed: Option<u64>,
    /// Where to compute: auto, cpu, cuda, cuda:N or cuda-host [default: auto]
    #[arg(long, global = true, value_name = "NAME")]
    device: Option<String>,
    /// Arithmetic of matrix products: f32, tf32 or bf16 [default: f32]
    #[arg(long, global = true, value_name = "NAME")]
    mode: Option<String>,
    /// Threads of the CPU, at most one for each available processor [default: as many]
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON document to standard output: the result, or {"error": …}
    #[arg(long, global = true)]
    json: bool,
}

/// How work that ran has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As asked.
    Done,
    /// An expectation or a check failed: exit status 1.
    Failed,
    /// Ctrl-C, SIGTERM or SIGHUP; what was done is saved. Exit status 130, as a shell reports it.
    Interrupted,
}

/// What the global flags say, checked.
pub(super) struct Context {
    /// `--seed`, where it was given.
    pub(super) seed: Option<Seed>,
    /// `--device`, where it was given.
    pub(super) explicit_device: Option<String>,
    /// `--mode`, where it was given.
    pub(super) explicit_mode: Option<Mode>,
    pub(super) mode: Mode,
    json: bool,
}

impl Context {
    pub(super) fn new(global: Global) -> crate::Result<Self> {
        if let Some(threads) = global.threads {
            if !(1..=1024).contains(&threads) {
                return Err(crate::Error::param("--threads", threads, "from 1 to 1024"));
            }
            // More threads than processors only wait for one another.
            let most = std::thread::available_parallelism().map_or(threads, usize::from);
            if threads > most {
                note(&format!(
                    "warning: --threads {threads}: {most} processors are available here; {most} threads are used"
                ));
            }
            let threads = threads.min(most);
            // Fails only where a pool is there already, and then it is this one.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        }
        let explicit_mode = global.mode.map(|mode| mode.parse::<Mode>()).transpose()?;
        let mode = explicit_mode.unwrap_or_default();
        let Global { seed, device: explicit_device, json, .. } = global;
        Ok(Self { seed: seed.map(Seed), explicit_device, explicit_mode, mode, json })
    }

    /// The device of `--device`.
    pub(super) fn device(&self) -> crate::Result<Device> {
        Device::new(self.explicit_device.as_deref().unwrap_or("auto"))
    }

    /// A command's result: `text` for people, `json` under `--json`. A reader that has gone away is no error.
    pub(super) fn print(&self, text: &str, json: &impl Serialize) -> anyhow::Result<()> {
        match self.json {
            true => write_line(&serde_json::to_string_pretty(json)?),
            false => write_line(&printable(text.trim_end())),
        }
    }

    /// Says why work that ran has failed.
    pub(super) fn failed(&self, why: &impl std::fmt::Display) -> anyhow::Result<()> {
        self.unfinished(&format!("error: {why}"), &why.to_string())
    }

    /// Says that the work was interrupted, and what goes on with it.
    pub(super) fn interrupted(&self, how: &impl std::fmt::Display) -> anyhow::Result<()> {
        self.unfinished(&how.to_string(), &how.to_string())
    }

    fn unfinished(&self, line: &str, message: &str) -> anyhow::Result<()> {
        note(line);
        match self.json {
            true => write_line(&error_document(message)),
            false => Ok(()),
        }
    }
}

/// Characters of an error's line: names and values from files can be of any length.
const MOST_CHARACTERS: usize = 2000;

/// `message` as one line that a terminal may show, its middle left out where it is long.
pub(super) fn one_line(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().collect();
    let line = printable(&words.join(" ")).into_owned();
    let count = line.chars().count();
    if count <= MOST_CHARACTERS {
        return line;
    }
    let half = MOST_CHARACTERS / 2;
    let (head, tail): (String, String) =
        (line.chars().take(half).collect(), line.chars().skip(count - half).collect());
    format!("{head} … ({} characters left out) … {tail}", count - 2 * half)
}

/// A line for people on standard error, beside a command's result.
pub(super) fn note(line: &str) {
    // A reader that has gone away is no error.
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}

/// To standard output; a reader that has gone away is no error.
pub(super) fn write_line(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// What `--json` prints where there is no result.
pub(super) fn error_document(message: &str) -> String {
    format!("{:#}", serde_json::json!({ "error": message }))
}
