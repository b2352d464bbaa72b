//! Results of `rewire attack` as tables, and as bars where nothing was swept.

use super::chart::{Axis, Chart, Kind, Series};
use super::input::Report;
use super::networks::Networks;
use super::section::{Part, Section};
use super::sweep;
use super::table::{Table, cells};
use super::text::fixed;
use crate::Result;
use crate::run::{AttackRow, Attacked};

/// The section.
pub fn section(report: &Report, networks: &Networks) -> Result<Option<Section>> {
    let mut parts: Vec<Part> =
        sweep::charts(report, networks).into_iter().map(Part::Chart).collect();
    parts.extend(bars(report, networks).into_iter().map(Part::Chart));
    for (&network, attacked) in networks.attacked.iter().zip(&report.attacked) {
        let name = networks.name(network);
        for warning in &attacked.warnings {
            let (network, text) = (Some((network, name.to_owned())), format!("Warning: {warning}"));
            parts.push(Part::Text { network, text, rest: String::new() });
        }
        parts.push(Part::Table(table(name, attacked)));
    }
    Ok(Section::new("attacks", "Accuracy under attacks", parts))
}

/// One row an attack.
fn table(name: &str, attacked: &Attacked) -> Table {
    let rows = attacked.attacks.iter().map(|row| {
        let settings = &row.settings;
        vec![
            sweep::attack(row),
            row.norm.clone(),
            settings.eps.to_string(),
            settings.steps().to_string(),
            settings.restarts.to_string(),
            fixed(row.accuracy, 2),
            match row.distances.and_then(|distances| distances.median) {
                Some(median) => fixed(median.into(), 4),
                None => "–".into(),
            },
        ]
    });
    let total = |what: &str, accuracy: f64| {
        let mut row = vec!["–".to_owned(); 7];
        (row[0], row[5]) = (what.into(), fixed(accuracy, 2));
        row
    };
    let rows = std::iter::once(total("clean", attacked.clean)).chain(rows);
    Table {
        title: format!("Attacks on {name}, {} images", attacked.images),
        note: format!(
            "{} images of {}, seed {}; network: {}. Accuracy in percent of all images. Median distance: to the nearest adversarial example found, over the images that are classified correctly. Worst case: an image counts where it stands every attack.",
            attacked.images, attacked.data, attacked.seed, attacked.model
        ),
        header: cells(&[
            "attack",
            "norm",
            "eps",
            "steps",
            "restarts",
            "accuracy %",
            "median distance",
        ]),
        rows: rows.chain([total("worst case", attacked.worst)]).collect(),
        folded: true,
        ..Table::default()
    }
}

/// One chart for all networks that were attacked on the same images; no sweeps.
fn bars(report: &Report, networks: &Networks) -> Vec<Chart> {
    let plain = || {
        let all = networks.attacked.iter().copied().zip(&report.attacked);
        all.filter(|(_, attacked)| attacked.sweep.is_none())
    };
    let mut groups: Vec<String> = plain().map(|(_, attacked)| images(attacked)).collect();
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|group| seen.insert(group.clone()));
    let chart = |group: &String| {
        let members = || plain().filter(|(_, attacked)| images(attacked) == *group);
        let mut categories = vec!["clean".to_owned()];
        for row in members().flat_map(|(_, attacked)| &attacked.attacks) {
            let name = settings(row);
            if !categories.contains(&name) {
                categories.push(name);
            }
        }
        let series = members().map(|(network, attacked)| {
            let under = |name: &String| {
                let found = attacked.attacks.iter().find(|row| settings(row) == *name);
                found.map(|row| row.accuracy)
            };
            let attacks = categories[1..].iter().map(under);
            let values = std::iter::once(Some(attacked.clean)).chain(attacks).collect();
            Series::bars(networks.name(network).to_owned(), Some(network), values)
        });
        let series = series.collect();
        Chart::new(
            Kind::Columns,
            "Accuracy under each attack".into(),
            &format!(
                "{group}. The bars of a sequence such as autoattack are what its members leave, one after the other."
            ),
            Axis { categories, ..Axis::default() },
            Axis::percent("%"),
            series,
        )
    };
    groups.iter().filter_map(chart).collect()
}

fn images(attacked: &Attacked) -> String {
    format!("{} images of {}, seed {}", attacked.images, attacked.data, attacked.seed)
}

fn settings(row: &AttackRow) -> String {
    format!("{}, eps {}", sweep::attack(row), row.settings.eps)
}
