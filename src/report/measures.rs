//! The accuracies that networks are compared by.

use super::input::Report;
use super::networks::Networks;
use super::text::eps_text;

/// An accuracy and all that decides whether another one may be compared with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// `clean`, `FGSM`, `PGD`, `AutoAttack`.
    pub kind: &'static str,
    /// The attack's settings.
    settings: String,
    /// The images.
    images: String,
    /// Percent of all images.
    pub accuracy: f64,
}

impl Measure {
    /// `clean`, `PGD (eps 8/255, 7 steps)`.
    pub fn label(&self) -> String {
        match self.settings.as_str() {
            "" => self.kind.to_owned(),
            settings => format!("{} ({settings})", self.kind),
        }
    }

    /// Whether the difference of the two means something: one attack, one set of images.
    pub fn comparable(&self, other: &Self) -> bool {
        (self.kind, &self.settings, &self.images) == (other.kind, &other.settings, &other.images)
    }

    /// `of clean accuracy (85.2 to 82.0 %)`, `under PGD (eps 8/255, 7 steps; 76.5 to 73.8 %)`.
    pub fn place(&self, values: &str) -> String {
        match self.kind {
            "clean" => format!("of clean accuracy ({values})"),
            kind => format!("under {kind} ({}; {values})", self.settings),
        }
    }
}

/// Every accuracy of a network that reports compare.
pub fn measures(report: &Report, networks: &Networks, network: usize) -> Vec<Measure> {
    let mut all = Vec::new();
    if let Some((run, result)) =
        networks.run(report, network).and_then(|run| Some((run, run.result.as_ref()?)))
    {
        let limit = run.setting("data", "test_limit");
        let images = format!("{} {}", result.data, limit.unwrap_or_default());
        let mut push = |kind, settings: String, accuracy| {
            all.push(Measure { kind, settings, images: images.clone(), accuracy });
        };
        if let Some(clean) = result.accuracy.clean {
            push("clean", String::new(), clean);
        }
        for one in &result.evaluations {
            if let Some(kind) = kind(&one.attack) {
                push(kind, settings(kind, one.eps, one.steps, one.restarts), one.accuracy);
            }
        }
    }
    let attacked = networks.attacked.iter().zip(&report.attacked);
    for (_, one) in attacked.filter(|own| *own.0 == network && own.1.sweep.is_none()) {
        let images = format!("{} images of {}, seed {}", one.images, one.data, one.seed);
        let mut push = |kind, settings, accuracy| {
            all.push(Measure { kind, settings, images: images.clone(), accuracy });
        };
        for (at, row) in one.attacks.iter().enumerate() {
            // Of a sequence, the last member's accuracy is that under all of them.
            let last = one.attacks.get(at + 1).is_none_or(|next| next.sequence != row.sequence);
            let name = row.sequence.as_ref().unwrap_or(&row.settings.attack);
            if let (Some(kind), true) = (kind(name), last || row.sequence.is_none()) {
                let given = &row.settings;
                let text = settings(kind, given.eps.exact(), given.steps(), given.restarts);
                push(kind, format!("{text}, {} images", one.images), row.accuracy);
            }
        }
    }
    all
}

fn kind(attack: &str) -> Option<&'static str> {
    match attack {
        "fgsm" => Some("FGSM"),
        "pgd" => Some("PGD"),
        "autoattack" => Some("AutoAttack"),
        _ => None,
    }
}

fn settings(kind: &str, eps: f64, steps: usize, restarts: usize) -> String {
    let mut text = format!("eps {}", eps_text(eps));
    if kind == "PGD" {
        text += &format!(", {steps} steps");
        if restarts > 1 {
            text += &format!(", {restarts} restarts");
        }
    }
    text
}
