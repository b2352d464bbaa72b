//! `rewire completions`: a completion script for a shell.

use super::{Cli, Context, Outcome};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;

/// A completion script for a shell, to standard output
#[derive(clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

impl Args {
    pub(super) fn run(self, _: &Context) -> anyhow::Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "rewire", &mut script);
        match std::io::stdout().write_all(&script) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(Outcome::Done),
        }
    }
}
