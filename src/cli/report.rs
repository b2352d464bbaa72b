//! `rewire report`: run folders and results as HTML, Markdown and CSV.

use super::{Context, Outcome};
use crate::report::{self, Report};
use crate::{Error, file};
use serde::Serialize;
use std::path::PathBuf;

/// Writes a report of runs and results: report.html (one file, no network), report.md and report.csv
///
/// Several runs are compared: what pruning cost in accuracy, what it won in time and size. The dense run among them is
/// what the pruned ones are compared with. The speed of a run is reported where `rewire bench` measured its checkpoint.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A run folder, a folder of `rewire attack --out`, or a JSON file of `rewire attack --json`, `rewire bench --json`,
    /// `rewire verify --json` or benches/peers
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Folder for the three files; created [default: the folder of a single run, else `report`]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Printed {
    files: Vec<PathBuf>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let rendered = report::render(&Report::read(&self.runs)?)?;
        let out = self.out.unwrap_or_else(|| match self.runs.as_slice() {
            [run] if run.is_dir() => run.clone(),
            _ => PathBuf::from("report"),
        });
        std::fs::create_dir_all(&out).map_err(|error| Error::io(&out, error))?;
        let mut files = Vec::new();
        for (name, text) in [
            ("report.html", rendered.html),
            ("report.md", rendered.markdown),
            ("report.csv", rendered.csv),
        ] {
            let path = out.join(name);
            file::write_bytes(&path, text.as_bytes())?;
            files.push(path);
        }
        let text = format!("Report of {} inputs: {}", self.runs.len(), files[0].display());
        context.print(&text, &Printed { files })?;
        Ok(Outcome::Done)
    }
}
