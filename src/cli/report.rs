//! `rewire report`: run folders as HTML, Markdown and CSV.

use super::{Context, Outcome};
use crate::report::{self, Peers, Run};
use crate::{Error, file};
use serde::Serialize;
use std::path::PathBuf;

/// Report of one run, or of several and of comparisons with peers: report.html, report.md, report.csv
#[derive(clap::Args)]
pub(super) struct Args {
    /// Run folders, and JSON files of benches/peers/inference.py
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
        let (files, folders): (Vec<_>, Vec<_>) = self.runs.iter().partition(|path| path.is_file());
        let runs: Vec<Run> = folders.iter().map(|dir| Run::load(dir)).collect::<Result<_, _>>()?;
        let peers: Vec<Peers> =
            files.iter().map(|file| Peers::load(file)).collect::<Result<_, _>>()?;
        let out = self.out.unwrap_or_else(|| match self.runs.as_slice() {
            [run] if run.is_dir() => run.clone(),
            _ => PathBuf::from("report"),
        });
        std::fs::create_dir_all(&out).map_err(|error| Error::io(&out, error))?;
        let mut files = Vec::new();
        for (name, text) in [
            ("report.html", report::html(&runs, &peers)?),
            ("report.md", report::markdown(&runs, &peers)),
            ("report.csv", report::csv(&runs)),
        ] {
            let path = out.join(name);
            file::write_bytes(&path, text.as_bytes())?;
            files.push(path);
        }
        let count = runs.len() + peers.len();
        context.print(&format!("{count} -> {}", files[0].display()), &Printed { files })?;
        Ok(Outcome::Done)
    }
}
