//! Accuracy against what a sweep varied, and against the distances that attacks found: a chart for each attack, with a
//! curve for each network that was attacked in the same way.

use super::chart::{Axis, Chart, Kind, Points, Series, Tick, drawable};
use super::input::Report;
use super::networks::Networks;
use super::text::list;
use crate::attack::Epsilon;
use crate::run::{AttackRow, Attacked, Sweep};

/// Curves that belong into one chart.
struct Group {
    title: String,
    /// What else the attack was, and on which images: curves of other settings are not comparable.
    note: String,
    /// Label of the axis; `eps` and norms have ticks at the values that were measured.
    x: String,
    values: Vec<Epsilon>,
    series: Vec<Series>,
}

/// A curve before it has found its group.
struct Curve {
    title: String,
    note: String,
    x: String,
    /// Value and accuracy.
    points: Vec<(Epsilon, f64)>,
}

/// The charts, in the order of the results.
pub fn charts(report: &Report, networks: &Networks) -> Vec<Chart> {
    let mut groups: Vec<Group> = Vec::new();
    for (&network, attacked) in networks.attacked.iter().zip(&report.attacked) {
        for curve in swept(attacked).into_iter().chain(distances(attacked)) {
            add(&mut groups, curve, network, networks.name(network), attacked.seed);
        }
    }
    groups.into_iter().filter_map(chart).collect()
}

fn add(groups: &mut Vec<Group>, curve: Curve, network: usize, name: &str, seed: u64) {
    let Curve { title, note, x, points } = curve;
    let place = groups.iter().position(|group| group.title == title && group.note == note);
    let place = place.unwrap_or_else(|| {
        groups.push(Group { title, note, x, values: Vec::new(), series: Vec::new() });
        groups.len() - 1
    });
    let group = &mut groups[place];
    group.values.extend(points.iter().map(|point| point.0));
    let twice = group.series.iter().any(|series| series.network == Some(network));
    let name = if twice { format!("{name} (seed {seed})") } else { name.to_owned() };
    let mut points: Vec<(f64, f64)> =
        points.into_iter().map(|(value, accuracy)| (value.exact(), accuracy)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    group.series.push(Series::curve(name, Some(network), Points::new(points.into_iter())));
}

fn chart(group: Group) -> Option<Chart> {
    let Group { title, note, x, mut values, series } = group;
    let axis = match x.as_str() {
        "steps" | "restarts" => Axis::whole(&x, series.iter()),
        _ => {
            values.sort_by(|a, b| a.exact().total_cmp(&b.exact()));
            values.dedup();
            values.retain(|value| drawable(value.exact()));
            let tick = |value: &Epsilon| Tick { value: value.exact(), label: value.to_string() };
            let (min, max) = (Some(0.0), values.last().map(|value| value.exact()));
            Axis { min, max, ticks: values.iter().map(tick).collect(), ..Axis::new(x) }
        }
    };
    Chart::new(Kind::Line, title, &note, axis, Axis::percent("%"), series)
}

/// The attack's name; of a member of a sequence, the sequence's before it.
pub fn attack(row: &AttackRow) -> String {
    let attack = &row.settings.attack;
    row.sequence.as_ref().map_or(attack.clone(), |sequence| format!("{sequence}: {attack}"))
}

fn images(attacked: &Attacked) -> String {
    format!("{} images of {}", attacked.images, attacked.data)
}

/// A curve an attack, and one of all of them where there are several.
fn swept(attacked: &Attacked) -> Vec<Curve> {
    let Some(Sweep { key, values, worst }) = &attacked.sweep else { return Vec::new() };
    let each = attacked.attacks.len() / values.len().max(1);
    let zero = key == "eps" && values.iter().all(|value| value.exact() > 0.0);
    let clean = zero.then_some((Epsilon::default(), attacked.clean));
    let at_zero = if zero { " At eps 0: without an attack." } else { "" };
    let curve = |name: &str, settings: String, accuracies: &mut dyn Iterator<Item = f64>| Curve {
        title: format!("Accuracy against {key}: {name}"),
        note: format!("{settings}{}.{at_zero}", images(attacked)),
        x: key.clone(),
        points: clean.into_iter().chain(values.iter().copied().zip(accuracies)).collect(),
    };
    let rows = |at: usize| attacked.attacks.iter().skip(at).step_by(each.max(1));
    let mut curves: Vec<Curve> = (0..each)
        .filter_map(|at| {
            let first = rows(at).next()?;
            let settings = settings(first, key);
            Some(curve(&attack(first), settings, &mut rows(at).map(|row| row.accuracy)))
        })
        .collect();
    if each > 1 {
        let mut names: Vec<String> = attacked.attacks[..each]
            .iter()
            .map(|row| row.sequence.clone().unwrap_or_else(|| row.settings.attack.clone()))
            .collect();
        names.dedup();
        let name = format!("worst case of {}", list(&names));
        curves.push(curve(&name, String::new(), &mut worst.iter().copied()));
    }
    curves
}

/// What an attack was besides what is varied: `20 steps, 1 restart; `.
fn settings(row: &AttackRow, swept: &str) -> String {
    let settings = &row.settings;
    let count = |count: usize, one: &str| {
        if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
    };
    let all = [
        ("eps", format!("eps {}", settings.eps)),
        ("steps", count(settings.steps(), "step")),
        ("restarts", count(settings.restarts, "restart")),
    ];
    let said: Vec<String> =
        all.into_iter().filter(|(key, _)| *key != swept).map(|(_, text)| text).collect();
    said.join(", ") + "; "
}

/// A curve for each attack that looked for the nearest adversarial example.
fn distances(attacked: &Attacked) -> Vec<Curve> {
    let rows = attacked.attacks.iter().filter(|row| !row.accuracy_at.is_empty());
    rows.map(|row| {
        let at = row.accuracy_at.iter().map(|at| (at.eps, at.accuracy));
        Curve {
            title: format!("Accuracy against the {} distance found: {}", row.norm, attack(row)),
            note: format!(
                "{}{}. At distance 0: without an attack.",
                settings(row, "eps"),
                images(attacked)
            ),
            x: format!("{} distance", row.norm),
            points: std::iter::once((Epsilon::default(), attacked.clean)).chain(at).collect(),
        }
    })
    .collect()
}
