//! `rewire report`: run folders as HTML, Markdown and CSV.

use super::{Context, Outcome};
use crate::report::{self, Run};
use crate::{Error, file};
use serde::Serialize;
use std::path::PathBuf;

/// Report of one run, or of several beside each other: report.html, report.md, report.csv
#[derive(clap::Args)]
pub(super) struct Args {
    /// Run folders
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where the files go; created [default: the run's folder, or `report` for several]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Printed {
    files: Vec<PathBuf>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let runs: Vec<Run> =
            self.runs.iter().map(|dir| Run::load(dir)).collect::<Result<_, _>>()?;
        let out = self.out.unwrap_or_else(|| match self.runs.as_slice() {
            [run] => run.clone(),
            _ => PathBuf::from("report"),
        });
        std::fs::create_dir_all(&out).map_err(|error| Error::io(&out, error))?;
        let mut files = Vec::new();
        for (name, text) in [
            ("report.html", report::html(&runs)?),
            ("report.md", report::markdown(&runs)),
            ("report.csv", report::csv(&runs)),
        ] {
            let path = out.join(name);
            file::write_bytes(&path, text.as_bytes())?;
            files.push(path);
        }
        context.print(&format!("{} -> {}", runs.len(), files[0].display()), &Printed { files })?;
        Ok(Outcome::Done)
    }
}
