//! `rewire data`: what `--data` can name.

use super::{Context, Outcome, fetch};
use crate::data::{DATASETS, Dataset, Need, Split};
use serde::Serialize;
use std::fmt::Write;

/// Data sets: what there is, and what is in one
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// The forms of `--data`
    List,
    /// Reads a data set and says what is in it
    Info {
        /// As `--data`
        #[arg(value_name = "SPEC")]
        set: String,
    },
    /// Downloads a data set to where `--data NAME` finds it; goes on where it stopped
    Fetch(fetch::Args),
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    form: &'static str,
    summary: &'static str,
    /// Whether `rewire data fetch` downloads it.
    fetchable: bool,
}

#[derive(Serialize)]
struct Info {
    name: &'static str,
    /// Channels, height, width.
    shape: [usize; 3],
    classes: Option<usize>,
    class_names: Vec<String>,
    train: Option<usize>,
    test: Option<usize>,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Outcome> {
        match self.action {
            Action::List => list(context),
            Action::Info { set } => info(&set, context),
            Action::Fetch(args) => args.run(context),
        }
    }
}

fn list(context: &Context) -> anyhow::Result<Outcome> {
    let entry = |entry: &crate::data::DatasetEntry| Entry {
        name: entry.name,
        form: entry.form,
        summary: entry.summary,
        fetchable: !entry.files.is_empty(),
    };
    let entries: Vec<Entry> = DATASETS.iter().map(entry).collect();
    let mut text = String::new();
    for Entry { form, summary, name, fetchable } in &entries {
        _ = writeln!(text, "{form}\n    {summary}");
        if *fetchable {
            _ = writeln!(text, "    rewire data fetch {name}");
        }
    }
    context.print(&text, &entries)?;
    Ok(Outcome::Done)
}

fn info(spec: &str, context: &Context) -> anyhow::Result<Outcome> {
    let data = Dataset::load_for(spec, Need::ANY)?;
    let info = Info {
        name: data.name,
        shape: [data.channels, data.height, data.width],
        classes: data.classes,
        train: data.train.as_ref().map(Split::len),
        test: data.test.as_ref().map(Split::len),
        class_names: data.class_names,
    };
    let count = |split: Option<usize>| split.map_or("none".into(), |n| n.to_string());
    let text = format!(
        "{}: images {:?} (channels, height, width), {} classes, {} training and {} test images\n{}",
        info.name,
        info.shape,
        info.classes.map_or("unknown".into(), |n| n.to_string()),
        count(info.train),
        count(info.test),
        info.class_names.join(", ")
    );
    context.print(&text, &info)?;
    Ok(Outcome::Done)
}
