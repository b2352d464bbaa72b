//! Reports of one run or of several beside each other: one HTML file, Markdown, CSV. Reads run
//! folders, results of attacks and results of peers only.

mod attacked;
mod html;
mod load;
mod peers;
mod plot;
mod table;
mod turns;

pub use load::Run;
pub use peers::Peers;

use crate::Result;
use crate::run::Attacked;

/// The report as one HTML file: no scripts, nothing loaded from elsewhere.
pub fn html(runs: &[Run], attacked: &[Attacked], peers: &[Peers]) -> Result<String> {
    html::page(runs, attacked, peers)
}

/// The tables as Markdown.
pub fn markdown(runs: &[Run], attacked: &[Attacked], peers: &[Peers]) -> String {
    table::all(runs, attacked, peers)
        .iter()
        .map(|table| table.markdown())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Accuracy and density, one line a run, as CSV.
pub fn csv(runs: &[Run]) -> String {
    table::accuracy(runs).csv()
}
