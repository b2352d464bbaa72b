//! Reports of one run or of several beside each other: one HTML file, Markdown, CSV. Reads run
//! folders, results of attacks and results of peers only.

mod attacked;
mod csv;
mod html;
mod load;
mod peers;
mod plot;
mod runs;
mod table;
mod turns;

pub use load::Run;
pub use peers::Peers;

use table::Table;

use crate::Result;
use crate::run::Attacked;

/// The report as one HTML file: no scripts, nothing loaded from elsewhere.
pub fn html(runs: &[Run], attacked: &[Attacked], peers: &[Peers]) -> Result<String> {
    html::page(runs, attacked, peers, &tables(runs, attacked, peers))
}

/// The tables as Markdown.
pub fn markdown(runs: &[Run], attacked: &[Attacked], peers: &[Peers]) -> String {
    tables(runs, attacked, peers)
        .iter()
        .map(|table| table.markdown())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Accuracy and density, one line a run, as CSV.
pub fn csv(runs: &[Run]) -> String {
    runs::accuracy(runs).csv()
}

/// Every table that has rows.
fn tables(runs: &[Run], attacked: &[Attacked], peers: &[Peers]) -> Vec<Table> {
    let mut tables = vec![runs::accuracy(runs)];
    tables.extend(attacked.iter().map(attacked::table));
    tables.extend(
        runs.iter().flat_map(|run| [runs::speed(run), runs::figures(run), runs::layers(run)]),
    );
    tables.extend(peers.iter().flat_map(Peers::tables));
    tables.retain(|table| !table.rows.is_empty());
    tables
}
