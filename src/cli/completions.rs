//! `rewire completions`: a completion script for a shell.

use super::{Cli, Context, Outcome};
use clap::CommandFactory;
use clap_complete::Shell;
use serde::Serialize;

/// A completion script for a shell, to standard output
#[derive(clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

#[derive(Serialize)]
struct Printed<'a> {
    shell: String,
    script: &'a str,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "rewire", &mut script);
        let script = String::from_utf8(script)?;
        let shell = self.shell.to_string();
        context.print(&script, &Printed { shell, script: &script })?;
        Ok(Outcome::Done)
    }
}
