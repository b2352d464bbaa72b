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

use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as MissingCommand;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use context::{Context, Global, Outcome, error_document, note, one_line, write_line};
use std::process::ExitCode;

/// Trains, prunes, attacks and serves convolutional networks.
#[derive(Parser)]
#[command(name = "rewire", version, about, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(flatten, next_help_heading = "Options of every command")]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The commands, each with an example.
#[derive(Subcommand)]
enum Command {
    #[command(after_help = "Examples:
  rewire train small-dnr-irregular
  rewire train fine-tune --init pruned.safetensors --data cifar10:DIR
  rewire train --resume runs/small-dnr-irregular")]
    Train(train::Args),
    #[command(
        after_help = "Pruning alone costs accuracy, most of all where whole filters or channels go.
`rewire train fine-tune --init FILE` wins it back; the zeros stay.

Example:
  rewire prune best.safetensors -o pruned.safetensors --density 0.2 --data cifar10:DIR"
    )]
    Prune(prune::Args),
    #[command(after_help = "Example:
  rewire eval runs/small-clean/checkpoints/best.safetensors")]
    Eval(eval::Args),
    #[command(after_help = "A flag that none of the attacks reads is refused.

Examples:
  rewire attack best.safetensors --attack fgsm,pgd --eps 8/255 --limit 200
  rewire attack best.safetensors --attack autoattack --out attacked")]
    Attack(Box<attack::Args>),
    #[command(after_help = "Example:
  rewire predict best.safetensors --data image-folder:DIR -o logits.npy")]
    Predict(predict::Args),
    #[command(after_help = "Example:
  rewire inspect pruned.safetensors")]
    Inspect(inspect::Args),
    #[command(after_help = "Example:
  rewire demo")]
    Demo(demo::Args),
    #[command(after_help = "Examples:
  rewire bench pruned.safetensors --batch 1,32
  rewire bench --arch vgg16 --density 0.05 --granularity irregular")]
    Bench(bench::Args),
    #[command(after_help = "Example:
  rewire report runs/small-clean runs/small-dnr-irregular --out report")]
    Report(report::Args),
    #[command(after_help = "Example:
  rewire shrink pruned.safetensors -o small.safetensors")]
    Shrink(shrink::Args),
    #[command(after_help = "Example:
  rewire import model.onnx -o model.safetensors")]
    Import(import::Args),
    #[command(after_help = "Example:
  rewire export small.safetensors -o small.onnx")]
    Export(export::Args),
    #[command(after_help = "Example:
  rewire data list")]
    Data(data::Args),
    #[command(after_help = "Example:
  rewire list attacks")]
    List(list::Args),
    #[command(after_help = "Example:
  rewire doctor")]
    Doctor(doctor::Args),
    #[command(after_help = "Example:
  rewire completions bash > ~/.local/share/bash-completion/completions/rewire")]
    Completions(completions::Args),
    #[command(after_help = "Examples:
  rewire man | man -l -
  rewire man --out man1")]
    Man(man::Args),
}

/// The commands by what they are for, in the order of a project.
const PURPOSES: [(&str, &[&str]); 5] = [
    ("Train", &["train", "demo"]),
    ("Compress", &["prune", "shrink"]),
    ("Measure", &["eval", "attack", "bench", "inspect", "report"]),
    ("Files", &["predict", "import", "export", "data"]),
    ("About rewire", &["list", "doctor", "completions", "man", "help"]),
];

/// What the words in the usage of the commands mean.
const WORDS: &str = "\
MODEL is a network's file: safetensors, from `rewire train` (runs/NAME/checkpoints/best.safetensors),
  `rewire import` (ONNX) or PyTorch (a state dict; name its architecture with --arch).
ARCH is NAME[:key=value,…], such as resnet18 or vgg16:width=0.5,classes=100. `rewire list models` names them.
SPEC is a data set: fashion-mnist-mini (built in), fashion-mnist[:DIR], mnist:DIR, cifar10:DIR, cifar100:DIR,
  tiny-imagenet:DIR, imagenette:DIR, image-folder:DIR, npy:DIR or synthetic:key=value,… See docs/data.md.";

/// The program with a help text that lists the commands by purpose.
fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    let mut groups = String::new();
    for (purpose, names) in PURPOSES {
        groups += &format!("{purpose}:\n");
        for name in names {
            let found = command.find_subcommand(name).and_then(|found| found.get_about());
            let about = found.map(ToString::to_string).unwrap_or_default();
            groups += &format!("  {name:12} {about}\n");
        }
        groups += "\n";
    }
    Cli::command().help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}Options:\n{{options}}\n\n{WORDS}\n\n\
         `rewire COMMAND --help` explains a command and shows an example."
    ))
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
            Self::Completions(args) => args.run(command(), context),
            Self::Man(args) => args.run(command(), context),
        }
    }
}

/// Runs the program on the process's arguments.
///
/// Exit status: 0 done, 1 a check failed, 2 bad usage or input with one line `error: …` on standard error, and with `--json`
/// the same message in a document on standard output.
pub fn main() -> ExitCode {
    let json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
    let parsed = command().try_get_matches().and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            // Help or version; a reader that has gone away is no error.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) if error.kind() == MissingCommand => {
            let _ = error.print();
            return refuse("no command is given; the usage above lists the commands", json);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_purpose_and_an_example() {
        let mut command = Cli::command();
        command.build();
        let mut listed: Vec<&str> =
            PURPOSES.iter().flat_map(|(_, names)| *names).copied().collect();
        listed.sort_unstable();
        let mut names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        names.sort_unstable();
        assert_eq!(listed, names);
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            let (name, about) = (command.get_name(), command.get_about().map(ToString::to_string));
            assert!(about.is_some_and(|about| !about.contains('\n')), "{name}");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("\n  rewire {name}")), "{name}: {help}");
        }
    }
}
