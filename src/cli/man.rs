//! `rewire man`: the manual pages.

use super::{Context, Outcome};
use crate::{Error, file};
use clap_mangen::Man;
use serde::Serialize;
use std::path::PathBuf;

/// Prints the manual page, or writes the pages of all commands into a folder
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder for the pages of all commands; it is created
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A page by the name of its file.
#[derive(Serialize)]
struct Page {
    name: String,
    text: String,
}

#[derive(Serialize)]
struct Printed {
    files: Vec<PathBuf>,
}

impl Args {
    /// `command`: the whole program's.
    pub(super) fn run(self, command: clap::Command, context: &Context) -> anyhow::Result<Outcome> {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        let mut pages = Vec::new();
        write_pages(&command, &mut pages)?;
        let Some(dir) = self.out else {
            let first = &pages[0];
            context.print(&first.text, first)?;
            return Ok(Outcome::Done);
        };
        std::fs::create_dir_all(&dir).map_err(|error| Error::io(&dir, error))?;
        let mut files = Vec::new();
        for page in pages {
            let path = dir.join(page.name);
            file::write_bytes(&path, page.text.as_bytes())?;
            files.push(path);
        }
        let text = format!("{} pages -> {}", files.len(), dir.display());
        context.print(&text, &Printed { files })?;
        Ok(Outcome::Done)
    }
}

/// The page of `command`, then those of its subcommands.
fn write_pages(command: &clap::Command, pages: &mut Vec<Page>) -> anyhow::Result<()> {
    let man = Man::new(command.clone()).manual("rewire");
    let mut bytes = Vec::new();
    man.render(&mut bytes)?;
    pages.push(Page { name: man.get_filename(), text: String::from_utf8(bytes)? });
    command.get_subcommands().try_for_each(|command| write_pages(command, pages))
}
