//! Flags that say what attacks do.

use crate::attack::{AttackSettings, Epsilon, Target};

/// The settings of the attacks.
#[derive(clap::Args)]
pub(super) struct AttackArgs {
    /// Attacks (see `rewire list attacks`), by commas
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',', default_value = "pgd")]
    attack: Vec<String>,
    /// Radius in the attack's norm, pixels in [0, 1]; at most 1 for L∞
    #[arg(long, value_name = "EPS", default_value = "8/255", allow_hyphen_values = true)]
    eps: String,
    /// Steps [default: the attack's own, such as pgd 20, cw-l2 1000: see docs/attacks.md]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Length of a step [default: 2.5·eps/steps; fgsm-rs 1.25·eps; cw-l2 and zoo 0.01]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    step_size: Option<String>,
    /// Length of a step as a multiple of eps
    #[arg(long, value_name = "FACTOR", conflicts_with = "step_size", allow_hyphen_values = true)]
    relative_step_size: Option<f64>,
    /// Whether attacks start at a random point of the ball
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    random_start: bool,
    /// Attempts at an image, each from a random start
    #[arg(long, value_name = "N", default_value_t = 1)]
    restarts: usize,
    /// Drives images to a class: next, least-likely, random or its number
    #[arg(long, value_name = "RULE")]
    target: Option<Target>,
    /// An image falls with the first step that it is wrong at, instead of by the last
    #[arg(long)]
    early_stop: bool,
    /// Gradients a step of eot-pgd [default: 10]
    #[arg(long, value_name = "N")]
    eot_samples: Option<usize>,
    /// Searches for the weight of the loss [default: cw-l2 9, zoo 1]
    #[arg(long, value_name = "N")]
    binary_search_steps: Option<usize>,
    /// What the published program does, also where it is weaker than it could be (cw-l2, bb-l0)
    #[arg(long)]
    faithful: bool,
    /// Steps between halvings of the trust region of bb-l0 [default: steps/30]
    #[arg(long, value_name = "N")]
    decay_interval: Option<usize>,
}

impl AttackArgs {
    /// One entry for each attack that is named.
    pub(super) fn settings(&self) -> crate::Result<Vec<AttackSettings>> {
        let eps = Epsilon::parse("--eps", &self.eps)?;
        let step_size = self.step_size.as_deref();
        let step_size = step_size.map(|text| Epsilon::parse("--step-size", text)).transpose()?;
        let of = |name: &String| {
            let settings = AttackSettings {
                attack: name.clone(),
                eps,
                steps: self.steps,
                step_size,
                relative_step_size: self.relative_step_size,
                random_start: self.random_start,
                restarts: self.restarts,
                target: self.target,
                early_stop: self.early_stop,
                eot_samples: self.eot_samples,
                binary_search_steps: self.binary_search_steps,
                faithful: self.faithful,
                decay_interval: self.decay_interval,
            };
            settings.check()?;
            // Not resolved yet: what a sweep varies changes the defaults of others.
            Ok(settings)
        };
        self.attack.iter().map(of).collect()
    }
}
