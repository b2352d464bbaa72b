//! `rewire completions`: a completion script for a shell.

use super::{Context, Outcome};
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
    /// `command`: the whole program's.
    pub(super) fn run(
        self,
        mut command: clap::Command,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "rewire", &mut script);
        let script = String::from_utf8(script)?;
        let shell = self.shell.to_string();
        context.print(&script, &Printed { shell, script: &script })?;
        Ok(Outcome::Done)
    }
}
