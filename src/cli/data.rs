//! `rewire data`: what `--data` can name.

use super::inputs::warn;
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
    /// Lists what `--data` can name
    List,
    /// Reads a data set and prints its images, classes, and the mean and standard deviation of its pixels
    Info {
        /// As `--data`
        #[arg(value_name = "SPEC")]
        set: String,
    },
    /// Downloads a data set to where `--data NAME` finds it; continues a download that was interrupted
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
    /// Training images.
    train: Option<usize>,
    /// Test images.
    test: Option<usize>,
    /// Training images of each class; null without training images or labels.
    train_per_class: Option<Vec<usize>>,
    /// As `train_per_class`, of the test images.
    test_per_class: Option<Vec<usize>>,
    /// Of each channel over the training images, or the test images where there are no others; pixels in [0, 1].
    mean: Vec<f64>,
    /// As `mean`.
    std: Vec<f64>,
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
    warn(&data.warnings(Need::ANY));
    let per_class = |split: &Option<Split>| split.as_ref()?.class_counts(data.classes?);
    let measured = data.train.as_ref().or(data.test.as_ref()).map_or(Vec::new(), Split::mean_std);
    let info = Info {
        name: data.name,
        shape: [data.channels, data.height, data.width],
        classes: data.classes,
        train: data.train.as_ref().map(Split::len),
        test: data.test.as_ref().map(Split::len),
        train_per_class: per_class(&data.train),
        test_per_class: per_class(&data.test),
        mean: measured.iter().map(|[mean, _]| *mean).collect(),
        std: measured.iter().map(|[_, std]| *std).collect(),
        class_names: data.class_names.clone(),
    };
    context.print(&info.text(&data), &info)?;
    Ok(Outcome::Done)
}

impl Info {
    fn text(&self, data: &Dataset) -> String {
        let [channels, height, width] = self.shape;
        let mut text = format!("{}\n", self.name);
        let mut line = |what: &str, value: &str| _ = writeln!(text, "{what:<16}{value}");
        line("image shape", &format!("{channels}×{height}×{width} (channels × height × width)"));
        for (what, count) in [("training images", self.train), ("test images", self.test)] {
            line(what, &count.map_or("none".into(), |n| n.to_string()));
        }
        let list = |values: &[f64]| {
            values.iter().map(|value| format!("{value:.4}")).collect::<Vec<_>>().join(":")
        };
        line(
            "pixels",
            &format!(
                "mean={},std={} (as --normalize takes them)",
                list(&self.mean),
                list(&self.std)
            ),
        );
        let Some(classes) = self.classes else {
            line("classes", "unknown: there are no labels");
            return text;
        };
        line("classes", &classes.to_string());
        let count = |counts: &Option<Vec<usize>>, class: usize| {
            counts.as_ref().map_or("-".into(), |counts| counts[class].to_string())
        };
        let names: Vec<String> = (0..classes).map(|class| data.class_name(class)).collect();
        let names: Vec<String> = names.iter().map(|name| name.escape_debug().to_string()).collect();
        let wide = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
        _ = writeln!(text, "\n{:<wide$} {:>10} {:>10}", "class", "training", "test");
        for (class, name) in names.iter().enumerate() {
            let (train, test) =
                (count(&self.train_per_class, class), count(&self.test_per_class, class));
            _ = writeln!(text, "{name:<wide$} {train:>10} {test:>10}");
        }
        text
    }
}
