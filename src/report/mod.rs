//! Reports of one run or of several beside each other: one HTML file, Markdown, CSV. Reads run folders only.

mod html;
mod load;
mod plot;
mod table;

pub use load::Run;

use crate::Result;

/// The report as one HTML file: no scripts, nothing loaded from elsewhere.
pub fn html(runs: &[Run]) -> Result<String> {
    html::page(runs)
}

/// The tables as Markdown.
pub fn markdown(runs: &[Run]) -> String {
    table::all(runs).iter().map(|table| table.markdown()).collect::<Vec<_>>().join("\n")
}

/// Accuracy and density, one line a run, as CSV.
pub fn csv(runs: &[Run]) -> String {
    table::accuracy(runs).csv()
}
