//! Signs that an attack is weaker than it could be: gradients that mislead or vanish, or too small a budget.
//!
//! Source: Athalye et al. 2018 (arXiv 1802.00420), section 3.1; Carlini et al. 2019 (arXiv 1902.06705).

use super::{AttackSettings, ExpandedAttack, Norm, Outcome, Search, find};
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

/// One line for each sign. `runs` holds the same attacks under several settings: one run, or the values of a sweep in their
/// order. Differences of one image, or of less than a percentage point, are no sign.
pub fn warnings(split: &Split, runs: &[Vec<Measured>]) -> Vec<String> {
    let slack = f64::max(1.0, 100.0 / split.len().max(1) as f64 + 1e-9);
    let mut lines: Vec<String> = Vec::new();
    for run in runs {
        for weak in run {
            for strong in run {
                lines.extend(outdone(weak, strong, slack));
            }
            lines.extend(beyond(weak, split));
            lines.extend(short(weak));
            lines.extend(no_radius(weak).filter(|_| runs.len() == 1));
        }
    }
    for pair in runs.windows(2) {
        let [fewer, more] = pair else { continue };
        for (fewer, more) in fewer.iter().zip(more) {
            lines.extend(unsettled(fewer, more, slack));
        }
    }
    lines
}

/// One line for each attack whose first gradients were zero or not finite for some of the images that it was tried on.
pub fn vanished_gradients(attacks: &[ExpandedAttack], outcome: &Outcome) -> Vec<String> {
    let line = |(one, usable): (&ExpandedAttack, &Vec<Option<bool>>)| {
        let name = one.settings.attack.as_str();
        let tried = usable.iter().flatten().count();
        let vanished = usable.iter().flatten().filter(|usable| !**usable).count();
        let advice: Vec<&str> =
            ["apgd-t", "cw-l2", "square"].into_iter().filter(|other| *other != name).collect();
        let network = if name == "transfer" { "the source network" } else { "the network" };
        (vanished > 0).then(|| {
            format!(
                "{name}: for {vanished} of {tried} attacked images the first gradient of {network} is zero or not finite. \
                 The attack cannot move such an image, so its accuracy is no sign of robustness. A saturated softmax or \
                 masked gradients are the usual cause. Try {}: their losses do not saturate, and square needs no gradients",
                advice.join(", ")
            )
        })
    };
    attacks.iter().zip(&outcome.usable_gradients).filter_map(line).collect()
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
        "an attack without gradients is stronger than one with gradients"
    } else if !black(weak_entry.name) && !black(strong_entry.name) && weak_entry.steps == 1 {
        "an attack of one step is stronger than one of many"
    } else {
        return None;
    };
    Some(format!(
        "at eps {4}, {0} leaves an accuracy of {1:.2} % and {2} {3:.2} %: {why}, so gradients may be masked",
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
            "{} leaves an accuracy of {:.2} % at eps {}, where every image can be made grey: the attack fails or has too few steps",
            entry.name, measured.accuracy, measured.settings.eps
        )
    })
}

/// Steps that together are shorter than eps: they cannot lead from the image to the edge of the ball.
fn short(measured: &Measured) -> Option<String> {
    let settings = measured.settings;
    let entry = find(&settings.attack).ok()?;
    let size = settings.step_size.filter(|_| entry.search == Search::Ball)?;
    let reach = size.exact() * settings.steps() as f64;
    // A tenth of a thousandth is rounding.
    (reach < 0.9999 * settings.eps.exact()).then(|| {
        format!(
            "{}: {} steps of length {size} cannot cross a ball of eps {}: take more steps, or longer ones",
            entry.name,
            settings.steps(),
            settings.eps
        )
    })
}

/// A ball of radius 0: the image itself.
fn no_radius(measured: &Measured) -> Option<String> {
    let settings = measured.settings;
    let inside = find(&settings.attack).is_ok_and(|entry| entry.search != Search::Nearest);
    (inside && settings.eps.value() == 0.0).then(|| {
        format!(
            "{}: eps is 0, so no image was changed: this is the clean accuracy",
            settings.attack
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
                "{name} leaves an accuracy of {:.2} % at eps {} but {:.2} % at eps {}: a larger ball holds every smaller one, so the attack misses examples",
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
            "{name} leaves an accuracy of {:.2} % with {from} {what} and {:.2} % with {to}: not settled, so give it more {what}",
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
        assert!(found(&[&[(fgsm, 40.0), (pgd, 45.0)]])[0].contains("of one step"));
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
    fn attacks_that_cannot_reach_the_edge_of_their_ball_are_named() {
        let text = "eps = 0.1\nsteps = 7\nstep_size = ";
        assert!(found(&[&[(&format!("{text}0.0142"), 50.0)]])[0].contains("cannot cross"));
        assert!(found(&[&[(&format!("{text}0.0143"), 50.0)]]).is_empty());
        assert!(found(&[&[("attack = 'cw-l2'\neps = 0.3\nstep_size = 1e-6", 50.0)]]).is_empty());
        assert!(found(&[&[("eps = 0", 50.0)]])[0].contains("clean accuracy"));
        assert!(found(&[&[("eps = 0", 50.0)], &[("eps = 0.1", 50.0)]]).is_empty());
    }

    #[test]
    fn sweeps_show_what_has_not_settled() {
        let steps = |n: usize| format!("steps = {n}");
        let (ten, hundred) = (steps(10), steps(100));
        assert!(found(&[&[(&ten, 50.0)], &[(&hundred, 30.0)]])[0].contains("not settled"));
        assert!(found(&[&[(&ten, 50.0)], &[(&hundred, 48.0)]]).is_empty());
        assert!(found(&[&[(&steps(1), 70.0)], &[(&ten, 30.0)]]).is_empty());
        assert!(found(&[&[("eps = 0.1", 30.0)], &[("eps = 0.2", 35.0)]])[0].contains("misses"));
        assert!(found(&[&[("restarts = 1", 30.0)], &[("restarts = 9", 20.0)]]).len() == 1);
    }
}
