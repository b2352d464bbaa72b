//! Results of `rewire attack`: accuracy by attack, and against radius, steps or restarts.

use super::plot::{Series, lines};
use super::table::Table;
use crate::run::{AttackRow, Attacked};

/// One row an attack.
pub(super) fn table(attacked: &Attacked) -> Table {
    let number = |d: Option<f32>| d.map_or("–".into(), |d| format!("{d:.4}"));
    let rows = attacked.attacks.iter().map(|row| {
        let settings = &row.settings;
        vec![
            name(row),
            row.norm.clone(),
            settings.eps.to_string(),
            settings.steps().to_string(),
            settings.restarts.to_string(),
            format!("{:.2}", row.accuracy),
            number(row.distances.and_then(|distances| distances.median)),
        ]
    });
    let total = |what: &str, accuracy: f64| {
        let mut row = vec!["–".to_owned(); 7];
        (row[0], row[5]) = (what.into(), format!("{accuracy:.2}"));
        row
    };
    let rows = std::iter::once(total("clean", attacked.clean)).chain(rows);
    Table {
        title: format!(
            "Attacks: {}, {} images of {}, seed {}",
            attacked.model, attacked.images, attacked.data, attacked.seed
        ),
        note: "Accuracy in percent of all images; distances to the nearest adversarial image that was found, over the images that are right.",
        header: ["attack", "norm", "eps", "steps", "restarts", "accuracy %", "median distance"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.chain([total("worst case", attacked.worst)]).collect(),
    }
}

fn name(row: &AttackRow) -> String {
    let attack = &row.settings.attack;
    row.sequence.as_ref().map_or(attack.clone(), |sequence| format!("{sequence}: {attack}"))
}

/// Curves over what was swept, and over the radii that distances were counted at.
pub(super) fn charts(attacked: &Attacked) -> Vec<String> {
    let mut charts = Vec::new();
    if let Some(sweep) = &attacked.sweep {
        let values: Vec<f64> = sweep.values.iter().map(|value| value.exact()).collect();
        let each = attacked.attacks.len() / values.len().max(1);
        let mut series: Vec<Series> = (0..each)
            .map(|attack| {
                let rows = || attacked.attacks.iter().skip(attack).step_by(each);
                let points = values.iter().copied().zip(rows().map(|row| row.accuracy));
                let name = rows().next().map(name).unwrap_or_default();
                Series { name, points: points.collect() }
            })
            .collect();
        if each > 1 {
            let points = values.iter().copied().zip(sweep.worst.iter().copied());
            series.push(Series { name: "worst case".into(), points: points.collect() });
        }
        let title = format!("Accuracy against {}: {}", sweep.key, short(&attacked.model));
        charts.extend(lines(&title, &sweep.key, "%", &series));
    }
    let mut norms: Vec<&str> = attacked.attacks.iter().map(|row| row.norm.as_str()).collect();
    norms.dedup();
    for norm in norms {
        let rows = attacked.attacks.iter().filter(|row| row.norm == norm);
        let series: Vec<Series> = rows
            .filter(|row| !row.accuracy_at.is_empty())
            .map(|row| {
                let mut points: Vec<(f64, f64)> =
                    row.accuracy_at.iter().map(|at| (at.eps.exact(), at.accuracy)).collect();
                points.push((0.0, attacked.clean));
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                Series { name: name(row), points }
            })
            .collect();
        let title =
            format!("Accuracy against the {norm} distance found: {}", short(&attacked.model));
        charts.extend(lines(&title, norm, "%", &series));
    }
    charts
}

/// The end of a path that is longer than a chart's title has room for.
fn short(model: &str) -> String {
    const ROOM: usize = 32;
    match model.chars().count().checked_sub(ROOM) {
        Some(more) if more > 0 => format!("…{}", model.chars().skip(more).collect::<String>()),
        _ => model.to_owned(),
    }
}
