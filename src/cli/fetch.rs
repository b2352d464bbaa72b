//! `rewire data fetch`: downloads a data set.

use super::{Context, Outcome};
use crate::Error;
use crate::data::{DATASETS, DatasetEntry, default_folder};
use clap::builder::PossibleValuesParser;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The data set
    #[arg(value_parser = PossibleValuesParser::new(names()))]
    name: String,
    /// Folder that the files go to; made where it is missing [default: $REWIRE_DATA/NAME or ~/.local/share/rewire/NAME,
    /// where `--data NAME` looks]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Server that is tried first, at URL/FILE
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

/// Sets that can be fetched.
fn names() -> impl Iterator<Item = &'static str> {
    DATASETS.iter().filter(|entry| !entry.files.is_empty()).map(|entry| entry.name)
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        let entry = DATASETS.iter().find(|entry| entry.name == self.name);
        let entry = entry.ok_or_else(|| Error::param("NAME", &self.name, "a data set"))?;
        let folder = self.out.or_else(|| default_folder(entry.name));
        let folder = folder.ok_or_else(|| {
            Error::param("--out", "nothing", "a folder: neither REWIRE_DATA nor HOME is set")
        })?;
        fetch(entry, &folder, self.mirror.as_deref(), context)
    }
}

#[cfg(not(feature = "download"))]
fn fetch(
    entry: &DatasetEntry,
    folder: &Path,
    _mirror: Option<&str>,
    _context: &Context,
) -> anyhow::Result<Outcome> {
    let files: Vec<&str> = entry.files.iter().map(|file| file.urls[0]).collect();
    anyhow::bail!(
        "this build cannot download: build with --features download, or put {} into {}",
        files.join(", "),
        folder.display()
    )
}

#[cfg(feature = "download")]
fn fetch(
    entry: &DatasetEntry,
    folder: &Path,
    mirror: Option<&str>,
    context: &Context,
) -> anyhow::Result<Outcome> {
    use super::{interrupt, note, progress};
    use crate::ErrorKind;
    use crate::data::fetch::{FetchEvent, fetch};
    use std::fs;

    #[derive(serde::Serialize)]
    struct Printed<'a> {
        name: &'a str,
        folder: PathBuf,
        files: Vec<&'a str>,
        /// Bytes that this call brought.
        received: u64,
    }

    let bar = progress::bytes();
    let mut shown = String::new();
    let stop = interrupt::flag("keeping what is there");
    let fetched = fetch(entry.files, folder, mirror, stop, &mut |event| match event {
        FetchEvent::Receiving { name, done, total }
        | FetchEvent::Unpacking { name, done, total } => {
            let verb = match event {
                FetchEvent::Unpacking { .. } => "unpacking ",
                _ => "",
            };
            let what = format!("{verb}{name}");
            if shown != what {
                bar.set_message(what.clone());
                bar.set_length(total);
                bar.reset_eta();
                shown = what;
            }
            bar.set_position(done);
        }
        FetchEvent::Failed { url, reason } => bar.suspend(|| note(&format!("{url}: {reason}"))),
    });
    bar.finish_and_clear();
    let received = match fetched {
        Err(error) if matches!(error.kind(), ErrorKind::Interrupted(_)) => {
            context.interrupted(&error)?;
            return Ok(Outcome::Interrupted);
        }
        fetched => fetched?,
    };
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let read = |file: &crate::data::RemoteFile| file.unpacks_to.unwrap_or(file.name);
    let files = entry.files.iter().map(read).collect();
    let place = folder.display();
    let text = match received {
        0 => format!("{} is in {place}: nothing to do", entry.name),
        _ => format!("{} -> {place} ({:.1} MB)", entry.name, received as f64 / 1e6),
    };
    context.print(&text, &Printed { name: entry.name, folder, files, received })?;
    Ok(Outcome::Done)
}
