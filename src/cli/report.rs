//! `rewire report`: run folders as HTML, Markdown and CSV.

use super::{Context, Outcome};
use crate::report::{self, Peers, Run};
use crate::run::Attacked;
use crate::{Error, file};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Report of one run, or of several and of comparisons with peers: report.html, report.md, report.csv
#[derive(clap::Args)]
pub(super) struct Args {
    /// Run folders, folders and JSON files of `rewire attack`, and JSON files of benches/peers
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
        let (mut runs, mut attacked, mut peers) = (Vec::new(), Vec::new(), Vec::new());
        for path in &self.runs {
            if path.join("attack.json").is_file() {
                attacked.push(Attacked::load(&path.join("result.json"))?);
            } else if !path.is_file() {
                runs.push(Run::load(path)?);
            } else if is_attacked(path)? {
                attacked.push(Attacked::load(path)?);
            } else {
                peers.push(Peers::load(path)?);
            }
        }
        let out = self.out.unwrap_or_else(|| match self.runs.as_slice() {
            [run] if run.is_dir() => run.clone(),
            _ => PathBuf::from("report"),
        });
        std::fs::create_dir_all(&out).map_err(|error| Error::io(&out, error))?;
        let mut files = Vec::new();
        for (name, text) in [
            ("report.html", report::html(&runs, &attacked, &peers)?),
            ("report.md", report::markdown(&runs, &attacked, &peers)),
            ("report.csv", report::csv(&runs)),
        ] {
            let path = out.join(name);
            file::write_bytes(&path, text.as_bytes())?;
            files.push(path);
        }
        let count = self.runs.len();
        context.print(&format!("{count} -> {}", files[0].display()), &Printed { files })?;
        Ok(Outcome::Done)
    }
}

/// Whether a JSON file is a result of attacks; anything else is read as one of peers.
fn is_attacked(path: &Path) -> crate::Result<bool> {
    let document: Option<serde_json::Value> =
        serde_json::from_slice(&file::read_bounded(path, 1 << 30)?).ok();
    Ok(document.is_some_and(|document| document.get("attacks").is_some()))
}
