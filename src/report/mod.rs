//! Reports of one run or of several beside each other: one HTML file, Markdown, CSV. A report reads run folders and JSON
//! files only.
//!
//! A section is a file with a function `section` and a line of `SECTIONS`.

mod answers;
mod attacked;
mod chart;
mod compared;
mod csv;
mod curves;
mod density;
mod input;
mod load;
mod markdown;
mod marker;
mod measures;
mod networks;
mod page;
mod peers;
mod proofs;
mod recipes;
mod runs;
mod samples;
mod section;
mod speed;
mod sweep;
mod table;
mod text;
mod tradeoff;
mod turns;
mod verified;

pub use input::{Named, Report};
pub use load::Run;
pub use peers::Peers;
pub use verified::Verified;

use crate::Result;
use networks::Networks;
use section::Section;

type Make = fn(&Report, &Networks) -> Result<Option<Section>>;

/// The sections, in the order of the page.
const SECTIONS: [Make; 11] = [
    answers::section,
    tradeoff::section,
    runs::section,
    curves::section,
    attacked::section,
    proofs::section,
    samples::section,
    density::section,
    speed::section,
    recipes::section,
    compared::section,
];

/// The report in its three forms.
pub struct Rendered {
    /// One HTML file that loads nothing.
    pub html: String,
    /// The sentences and the tables as Markdown.
    pub markdown: String,
    /// Accuracy and density, one line a run.
    pub csv: String,
}

/// Renders a report. The same input gives the same bytes.
///
/// Errors: [`crate::ErrorKind::File`] for sample images that are damaged.
pub fn render(report: &Report) -> Result<Rendered> {
    let networks = Networks::of(report);
    let mut sections = Vec::new();
    for make in SECTIONS {
        sections.extend(make(report, &networks)?);
    }
    let title = title(&networks);
    Ok(Rendered {
        html: page::html(&title, &sections, &networks)?,
        markdown: markdown::text(&title, &sections),
        csv: runs::table(report, &networks).csv(),
    })
}

/// The names of the networks, or how many there are.
fn title(networks: &Networks) -> String {
    let names: Vec<String> = networks.all().map(|(_, name)| name.to_owned()).collect();
    match names.len() {
        0 => "Against other frameworks".into(),
        1..=3 => text::list(&names),
        count => format!("{count} networks"),
    }
}
