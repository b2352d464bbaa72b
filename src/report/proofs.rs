//! The section of `rewire verify`.

use super::chart::{Axis, Chart, Kind, Series};
use super::input::Report;
use super::networks::Networks;
use super::section::{Part, Section};
use super::table::{Table, cells};
use super::text::{fixed, fixed_or_dash};
use crate::Result;

/// The section.
pub fn section(report: &Report, networks: &Networks) -> Result<Option<Section>> {
    let all = || networks.verified.iter().copied().zip(&report.verified);
    let name = |network: usize| networks.name(network).to_owned();
    let series = all().map(|(network, one)| {
        let one = &one.result;
        let values = [Some(one.clean), one.attacked, Some(one.verified), one.verified_f32];
        Series::bars(name(network), Some(network), values.to_vec())
    });
    let categories = cells(&["clean", "under PGD", "proven", "proven in f32"]);
    let chart = Chart::new(
        Kind::Columns,
        "Proven accuracy".into(),
        "The accuracy under any attack within eps lies between what is proven and what PGD leaves.",
        Axis { categories, ..Axis::default() },
        Axis::percent("% of all images"),
        series.collect(),
    );
    let row = |(network, one): (usize, &super::input::Named<super::verified::Verified>)| {
        let one = &one.result;
        vec![
            name(network),
            one.images.to_string(),
            one.eps.map_or("–".into(), |eps| eps.to_string()),
            one.bound.clone().unwrap_or_else(|| "–".into()),
            fixed(one.clean, 2),
            fixed_or_dash(one.attacked, 2),
            fixed(one.verified, 2),
            fixed_or_dash(one.verified_f32, 2),
        ]
    };
    let table = Table {
        title: "What was proven".into(),
        note: "Percent of all images. Proven: in real arithmetic, and with the rounding of f32."
            .into(),
        header: cells(&[
            "network",
            "images",
            "eps",
            "bound",
            "clean %",
            "PGD %",
            "proven %",
            "proven in f32 %",
        ]),
        rows: all().map(row).collect(),
        networks: all().map(|(network, _)| Some(network)).collect(),
        ..Table::default()
    };
    let parts = chart.map(Part::Chart).into_iter().chain([Part::Table(table)]);
    Ok(Section::new("proofs", "Proven accuracy", parts.collect()))
}
