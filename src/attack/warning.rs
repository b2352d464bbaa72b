//! Signs that an attack is weaker than the network: gradients that mislead, or too small a budget.
//!
//! Source: Athalye et al. 2018 (arXiv 1802.00420), section 3.1; Carlini et al. 2019 (arXiv 1902.06705).

use super::{AttackSettings, Norm, Search, find};
use crate::data::Split;

/// An attack and what is left of the accuracy under it.
pub struct Measured<'a> {
    /// Resolved.
    pub settings: &'a AttackSettings,
    /// Percent of all images.
    pub accuracy: f64,
}

/// Attacks that look at no gradient of the network.
const BLACK_BOX: [&str; 3] = ["square", "zoo", "transfer"];

/// Accuracy in percent that counts as near zero.
const NEAR_ZERO: f64 = 5.0;

/// One line a sign. `runs` holds the attacks of one list under several settings: one run, or the values of a sweep in
/// their order. Differences of one image, or of less than a point, are none.
pub fn warnings(split: &Split, runs: &[Vec<Measured>]) -> Vec<String> {
    let slack = f64::max(1.0, 100.0 / split.len().max(1) as f64 + 1e-9);
    let mut lines: Vec<String> = Vec::new();
    for run in runs {
        for weak in run {
            for strong in run {
                lines.extend(outdone(weak, strong, slack));
            }
            lines.extend(beyond(weak, split));
        }
    }
    for pair in runs.windows(2) {
        let [fewer, more] = pair else { continue };
        for (fewer, more) in fewer.iter().zip(more) {
            lines.extend(unsettled(fewer, more, slack));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines
}

/// A weaker attack that leaves less than a stronger one of the same norm and radius.
fn outdone(weak: &Measured, strong: &Measured, slack: f64) -> Option<String> {
    let (weak_entry, strong_entry) =
        (find(&weak.settings.attack).ok()?, find(&strong.settings.attack).ok()?);
    let comparable =
        weak_entry.norm == strong_entry.norm && weak.settings.eps == strong.settings.eps;
    if !comparable || strong.accuracy - weak.accuracy <= slack {
        return None;
    }
    let black = |name: &str| BLACK_BOX.contains(&name);
    if strong.settings.steps() == 1 || strong.settings.target.is_some() {
        return None;
    }
    let why = if black(weak_entry.name) && !black(strong_entry.name) {
        "an attack without gradients finds more than one with them"
    } else if !black(weak_entry.name) && !black(strong_entry.name) && weak_entry.steps == 1 {
        "one step finds more than many"
    } else {
        return None;
    };
    Some(format!(
        "{} leaves {:.2} %, {} {:.2} % at eps {}: {why}; gradients may be masked",
        weak_entry.name, weak.accuracy, strong_entry.name, strong.accuracy, weak.settings.eps
    ))
}

/// An attack that leaves something where no image is out of reach: any two images are closer than this.
fn beyond(measured: &Measured, split: &Split) -> Option<String> {
    let entry = find(&measured.settings.attack).ok()?;
    let size: usize = split.shape[1..].iter().product();
    // Every image can become the uniform grey one.
    let unbounded = match entry.norm {
        Norm::Linf => 0.5,
        Norm::L2 => 0.5 * (size as f64).sqrt(),
        Norm::L0 => size as f64,
    };
    let gradients = entry.search != Search::OneStep && entry.steps > 1;
    let untargeted = measured.settings.target.is_none();
    let far = measured.settings.eps.exact() >= unbounded;
    (gradients && untargeted && far && measured.accuracy > NEAR_ZERO).then(|| {
        format!(
            "{} leaves {:.2} % at eps {}, where every image can be made grey: the attack fails or has too few steps",
            entry.name, measured.accuracy, measured.settings.eps
        )
    })
}

/// Two settings of one attack, the second with a larger radius or more effort.
fn unsettled(fewer: &Measured, more: &Measured, slack: f64) -> Option<String> {
    let (a, b) = (fewer.settings, more.settings);
    if a.attack != b.attack {
        return None;
    }
    let drop = fewer.accuracy - more.accuracy;
    let name = &a.attack;
    if a.eps != b.eps {
        let rises = a.eps.exact() < b.eps.exact() && -drop > slack;
        return rises.then(|| {
            format!(
                "{name} leaves {:.2} % at eps {} but {:.2} % at {}: a larger ball cannot leave more; the attack gets lost",
                fewer.accuracy, a.eps, more.accuracy, b.eps
            )
        });
    }
    let (what, from, to) = match (a.steps() != b.steps(), a.restarts != b.restarts) {
        (true, _) => ("steps", a.steps(), b.steps()),
        (_, true) => ("restarts", a.restarts, b.restarts),
        _ => return None,
    };
    // A step more from almost none is no sign; what the last doubling brings is.
    let large = to > from && from >= enough(what) && drop > NEAR_ZERO.max(slack);
    large.then(|| {
        format!(
            "{name} leaves {:.2} % with {from} {what} and {:.2} % with {to}: not settled; give it more",
            fewer.accuracy, more.accuracy
        )
    })
}

/// From what number on more of it should change little.
fn enough(what: &str) -> usize {
    if what == "steps" { 10 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Pixels;

    fn split() -> Split {
        let pixels = Pixels::U8(vec![0; 1000 * 4]);
        Split { shape: [1000, 1, 2, 2], pixels, labels: None, source: "none".into() }
    }

    fn found(runs: &[&[(&str, f64)]]) -> Vec<String> {
        let runs: Vec<Vec<(AttackSettings, f64)>> = runs
            .iter()
            .map(|run| {
                let of = |(text, accuracy): &(&str, f64)| {
                    (toml::from_str::<AttackSettings>(text).unwrap().resolved().unwrap(), *accuracy)
                };
                run.iter().map(of).collect()
            })
            .collect();
        let of = |(settings, accuracy)| Measured { settings, accuracy };
        let measured: Vec<Vec<Measured>> = runs
            .iter()
            .map(|run| run.iter().map(|(settings, accuracy)| of((settings, *accuracy))).collect())
            .collect();
        warnings(&split(), &measured)
    }

    #[test]
    fn signs_of_masked_gradients_are_named_and_others_are_not() {
        let fgsm = "attack = 'fgsm'\neps = 0.1";
        let pgd = "attack = 'pgd'\neps = 0.1";
        assert!(found(&[&[(fgsm, 40.0), (pgd, 39.0)]]).is_empty());
        assert!(found(&[&[(fgsm, 40.0), (pgd, 41.0)]]).is_empty());
        assert!(found(&[&[(fgsm, 40.0), (pgd, 45.0)]])[0].contains("one step"));
        // Another radius or another norm compares with nothing.
        assert!(found(&[&[(fgsm, 40.0), ("eps = 0.2", 45.0)]]).is_empty());
        assert!(found(&[&[(fgsm, 40.0), ("attack = 'pgd-l2'\neps = 0.1", 45.0)]]).is_empty());
        let transfer = "attack = 'transfer'\neps = 0.1";
        assert!(found(&[&[(transfer, 40.0), (pgd, 45.0)]])[0].contains("without gradients"));
        assert!(found(&[&[(transfer, 45.0), (pgd, 40.0)]]).is_empty());
        assert!(found(&[&[("eps = 0.5", 20.0)]])[0].contains("grey"));
        assert!(found(&[&[("eps = 0.5", 1.0)], &[("eps = 0.6", 1.0)]]).is_empty());
    }

    #[test]
    fn sweeps_show_what_has_not_settled() {
        let steps = |n: usize| format!("steps = {n}");
        let (ten, hundred) = (steps(10), steps(100));
        assert!(found(&[&[(&ten, 50.0)], &[(&hundred, 30.0)]])[0].contains("not settled"));
        assert!(found(&[&[(&ten, 50.0)], &[(&hundred, 48.0)]]).is_empty());
        assert!(found(&[&[(&steps(1), 70.0)], &[(&ten, 30.0)]]).is_empty());
        assert!(found(&[&[("eps = 0.1", 30.0)], &[("eps = 0.2", 35.0)]])[0].contains("lost"));
        assert!(found(&[&[("restarts = 1", 30.0)], &[("restarts = 9", 20.0)]]).len() == 1);
    }
}
