//! The command line: one file a subcommand, each of them parse, library call, print.

mod attack;
mod bench;
mod completions;
mod data;
mod demo;
mod doctor;
mod eval;
mod export;
mod fetch;
mod import;
mod inputs;
mod inspect;
mod interrupt;
mod list;
mod man;
mod predict;
mod progress;
mod prune;
mod report;
mod shrink;
mod train;

use crate::{Device, Mode, Seed};
use clap::{Parser, Subcommand};
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

/// Trains, prunes, attacks and serves convolutional networks.
#[derive(Parser)]
#[command(name = "rewire", version, about, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(clap::Args)]
struct Global {
    /// Seed of every random stream [default: 1]
    #[arg(long, global = true, value_name = "N")]
    seed: Option<u64>,
    /// Where to compute: auto, cpu, cuda, cuda:N or cuda-host [default: auto]
    #[arg(long, global = true, value_name = "NAME")]
    device: Option<String>,
    /// Arithmetic of matrix products: f32, tf32 or bf16 [default: f32]
    #[arg(long, global = true, value_name = "NAME")]
    mode: Option<String>,
    /// Threads of the CPU [default: one a core]
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON document to standard output: the result, or {"error": …}
    #[arg(long, global = true)]
    json: bool,
}

/// The commands.
#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Prune(prune::Args),
    Eval(eval::Args),
    Attack(Box<attack::Args>),
    Predict(predict::Args),
    Inspect(inspect::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Report(report::Args),
    Shrink(shrink::Args),
    Import(import::Args),
    Export(export::Args),
    Data(data::Args),
    List(list::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        match self {
            Self::Train(args) => args.run(context),
            Self::Prune(args) => args.run(context),
            Self::Eval(args) => args.run(context),
            Self::Attack(args) => args.run(context),
            Self::Predict(args) => args.run(context),
            Self::Inspect(args) => args.run(context),
            Self::Demo(args) => args.run(context),
            Self::Bench(args) => args.run(context),
            Self::Report(args) => args.run(context),
            Self::Doctor(args) => args.run(context),
            Self::Shrink(args) => args.run(context),
            Self::Import(args) => args.run(context),
            Self::Export(args) => args.run(context),
            Self::Data(args) => args.run(context),
            Self::List(args) => args.run(context),
            Self::Completions(args) => args.run(context),
            Self::Man(args) => args.run(context),
        }
    }
}

/// How work that ran has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// As asked.
    Done,
    /// An expectation or a check failed: exit status 1.
    Failed,
    /// Ctrl-C; what was done is saved. Exit status 130, as a shell reports it.
    Interrupted,
}

/// What the global flags say, checked.
struct Context {
    /// `--seed`, where it was given.
    seed: Option<Seed>,
    /// `--device`, where it was given.
    explicit_device: Option<String>,
    /// `--mode`, where it was given.
    explicit_mode: Option<Mode>,
    mode: Mode,
    json: bool,
}

impl Context {
    fn new(global: Global) -> crate::Result<Self> {
        if let Some(threads) = global.threads {
            if !(1..=1024).contains(&threads) {
                return Err(crate::Error::param("--threads", threads, "from 1 to 1024"));
            }
            // Fails only where a pool is there already, and then it is this one.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        }
        let explicit_mode = global.mode.map(|mode| mode.parse::<Mode>()).transpose()?;
        let mode = explicit_mode.unwrap_or_default();
        let Global { seed, device: explicit_device, json, .. } = global;
        Ok(Self { seed: seed.map(Seed), explicit_device, explicit_mode, mode, json })
    }

    /// The device of `--device`.
    fn device(&self) -> crate::Result<Device> {
        Device::new(self.explicit_device.as_deref().unwrap_or("auto"))
    }

    /// A command's result: `text` for people, `json` under `--json`. A reader that has gone away is no error.
    fn print(&self, text: &str, json: &impl Serialize) -> anyhow::Result<()> {
        match self.json {
            true => write_line(&serde_json::to_string_pretty(json)?),
            false => write_line(text.trim_end()),
        }
    }

    /// Says that the work was interrupted, and what goes on with it.
    fn interrupted(&self, how: &impl std::fmt::Display) -> anyhow::Result<()> {
        eprintln!("{how}");
        match self.json {
            true => write_line(&error_document(&how.to_string())),
            false => Ok(()),
        }
    }
}

/// To standard output; a reader that has gone away is no error.
fn write_line(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// What `--json` prints where there is no result.
fn error_document(message: &str) -> String {
    format!("{:#}", serde_json::json!({ "error": message }))
}

/// Runs the program on the process's arguments.
///
/// Exit status: 0 done, 1 a check failed, 2 bad usage or input with one line `error: …` on standard error, and with `--json`
/// the same message in a document on standard output.
pub fn main() -> ExitCode {
    let json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            // Help or version; a reader that has gone away is no error.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return refuse(&usage(&error), json),
    };
    let outcome = Context::new(cli.global)
        .map_err(anyhow::Error::from)
        .and_then(|context| cli.command.run(&context));
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => refuse(&error.to_string(), json),
    }
}

/// One line on standard error, status 2.
fn refuse(message: &str, json: bool) -> ExitCode {
    let words: Vec<&str> = message.split_whitespace().collect();
    let message = words.join(" ");
    if json {
        // What cannot be written to one of the two still goes to the other.
        let _ = write_line(&error_document(&message));
    }
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(2)
}

/// What the parser of the command line objects to, without its hints on usage.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let end =
        ["\nUsage:", "\nFor more information"].iter().filter_map(|mark| text.find(mark)).min();
    text[..end.unwrap_or(text.len())].trim_start_matches("error: ").to_owned()
}
