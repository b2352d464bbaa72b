//! The command line: one file a subcommand, each of them parse, library call, print.

mod attack;
mod bench;
mod completions;
mod context;
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

use clap::{CommandFactory, Parser, Subcommand};
use context::{Context, Global, Outcome, error_document, note, one_line, write_line};
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
            Self::Completions(args) => args.run(Cli::command(), context),
            Self::Man(args) => args.run(Cli::command(), context),
        }
    }
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
    let message = one_line(message);
    if json {
        // What cannot be written to one of the two still goes to the other.
        let _ = write_line(&error_document(&message));
    }
    note(&format!("error: {message}"));
    ExitCode::from(2)
}

/// What the parser of the command line objects to, without its hints on usage.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let end =
        ["\nUsage:", "\nFor more information"].iter().filter_map(|mark| text.find(mark)).min();
    text[..end.unwrap_or(text.len())].trim_start_matches("error: ").to_owned()
}
