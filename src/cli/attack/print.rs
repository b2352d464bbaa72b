//! The result for people.

use crate::attack::{Search, find};
use crate::run::{AttackRow, Attacked, Sweep};
use std::fmt::{Error, Write};

/// Width of the names.
const WIDE: usize = 38;

pub(super) fn text(result: &Attacked) -> Result<String, Error> {
    let mut text = String::new();
    write!(text, "{} images of {}, seed {}", result.images, result.data, result.seed)?;
    if let Some(noise) = &result.weight_noise {
        write!(text, ", noise on weights {noise}")?;
    }
    if let Some(source) = &result.source {
        write!(text, ", source {source}")?;
    }
    writeln!(text)?;
    match &result.sweep {
        Some(sweep) => table(&mut text, result, sweep)?,
        None => list(&mut text, result)?,
    }
    Ok(text)
}

fn list(text: &mut String, result: &Attacked) -> Result<(), Error> {
    writeln!(text, "  {:WIDE$}{:7.2} %", "clean", result.clean)?;
    for (i, row) in result.attacks.iter().enumerate() {
        writeln!(text, "  {:WIDE$}{:7.2} %", how(row), row.accuracy)?;
        if let Some(distances) = &row.distances {
            let quantile = |d: Option<f32>| d.map_or("none".into(), |d| format!("{d:.4}"));
            let [low, median, high] =
                [distances.q10, distances.median, distances.q90].map(quantile);
            let (found, images) = (distances.found, distances.images);
            writeln!(
                text,
                "    {} distance: median {median}, 10 % {low}, 90 % {high}; found for {found} of {images}",
                row.norm
            )?;
        }
        for at in &row.accuracy_at {
            writeln!(
                text,
                "    {:width$}{:7.2} %",
                format!("at {}", at.eps),
                at.accuracy,
                width = WIDE - 2
            )?;
        }
        let next = result.attacks.get(i + 1).and_then(|row| row.sequence.as_ref());
        if let Some(sequence) = &row.sequence
            && next != Some(sequence)
        {
            writeln!(text, "  {sequence:WIDE$}{:7.2} %", row.accuracy)?;
        }
    }
    writeln!(text, "  {:WIDE$}{:7.2} %", "worst case", result.worst)
}

/// A column a value.
fn table(text: &mut String, result: &Attacked, sweep: &Sweep) -> Result<(), Error> {
    let mut line = |name: &str, cells: Vec<String>| {
        write!(text, "  {name:16}")?;
        cells.iter().try_for_each(|cell| write!(text, "{cell:>10}"))?;
        writeln!(text)
    };
    line(&sweep.key, sweep.values.iter().map(|value| value.to_string()).collect())?;
    let percent = |value: &f64| format!("{value:.2}");
    line("clean", vec![percent(&result.clean); sweep.values.len()])?;
    let each = result.attacks.len() / sweep.values.len().max(1);
    for attack in 0..each {
        let of = || result.attacks.iter().skip(attack).step_by(each);
        let name = of().next().map_or("", |row| row.settings.attack.as_str());
        line(name, of().map(|row| percent(&row.accuracy)).collect())?;
    }
    line("worst case", sweep.worst.iter().map(percent).collect())
}

/// The attack and the settings that matter to it.
fn how(row: &AttackRow) -> String {
    let settings = &row.settings;
    let mut how = match &row.sequence {
        Some(_) => format!("  {}, eps {}", settings.attack, settings.eps),
        None => format!("{}, eps {}", settings.attack, settings.eps),
    };
    // Writing to a String cannot fail.
    match find(&settings.attack) {
        Ok(entry) if entry.search == Search::OneStep => {}
        _ => _ = write!(how, ", {} steps × {}", settings.steps(), settings.restarts),
    }
    if let Some(target) = settings.target {
        _ = write!(how, " to {target}");
    }
    how
}
