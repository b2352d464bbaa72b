//! The section of comparisons with other frameworks.

use super::chart::{Axis, Chart, Kind, Series};
use super::input::Report;
use super::networks::Networks;
use super::section::{Part, Section};
use crate::Result;

/// The section.
pub fn section(report: &Report, _: &Networks) -> Result<Option<Section>> {
    let mut parts = Vec::new();
    for peers in &report.peers {
        let (categories, ratios): (Vec<String>, Vec<f64>) = peers.ratios().into_iter().unzip();
        let values = ratios.into_iter().map(Some).collect();
        let chart = Chart::new(
            Kind::Bars,
            "Time of the fastest other framework over rewire's".into(),
            "Above 1, rewire is faster.",
            Axis { categories, ..Axis::default() },
            Axis { min: Some(0.0), mark: Some(1.0), ..Axis::new("times") },
            vec![Series::bars("fastest other framework over rewire".into(), None, values)],
        );
        parts.extend(chart.map(Part::Chart));
        parts.extend(peers.tables().into_iter().map(Part::Table));
    }
    Ok(Section::new("peers", "Against other frameworks", parts))
}
