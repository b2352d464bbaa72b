//! Flags that say what attacks do.

use crate::attack::{AttackSettings, Epsilon, Target, read_by};
use crate::{Error, Result};

/// The settings of the attacks. Each attack takes the flags that it reads; a flag that no attack of the list reads is an error.
#[derive(clap::Args)]
pub(super) struct AttackArgs {
    /// Attacks, separated by commas: `rewire list attacks` names them
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',', default_value = "pgd")]
    attack: Vec<String>,
    /// Radius around each image, in the attack's norm, for pixels in [0, 1]; at most 1 in L∞. For attacks that search the nearest
    /// example (cw-l2, bb-l0, zoo, fab-t) only the threshold of the printed accuracy [default: 8/255]
    #[arg(long, value_name = "EPS", allow_hyphen_values = true)]
    eps: Option<String>,
    /// Steps [default: the attack's own, such as 20 for pgd and 1000 for cw-l2: see docs/attacks.md]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Length of a step [default: 2.5·eps/steps; fgsm-rs 1.25·eps; cw-l2 and zoo 0.01]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    step_size: Option<String>,
    /// Length of a step as a multiple of eps
    #[arg(long, value_name = "FACTOR", conflicts_with = "step_size", allow_hyphen_values = true)]
    relative_step_size: Option<f64>,
    /// Whether an attack starts at a random point within eps [default: true]
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
    random_start: Option<bool>,
    /// Attempts at each image, each from another random start [default: 1]
    #[arg(long, value_name = "N")]
    restarts: Option<usize>,
    /// Drives each image to a class: next, least-likely, random or a class number [default: away from its own]
    #[arg(long, value_name = "RULE")]
    target: Option<Target>,
    /// Counts an image as fallen at the first step that the network gets wrong, instead of after the last step
    #[arg(long, conflicts_with = "weight_noise")]
    early_stop: bool,
    /// Gradients of each step of eot-pgd, each under another draw of the noise of --weight-noise [default: 10]
    #[arg(long, value_name = "N", requires = "weight_noise")]
    eot_samples: Option<usize>,
    /// Searches for the weight of the loss, in cw-l2 and zoo [default: cw-l2 9, zoo 1]
    #[arg(long, value_name = "N")]
    binary_search_steps: Option<usize>,
    /// Does what the published program does, also where that is weaker (cw-l2, bb-l0)
    #[arg(long)]
    faithful: bool,
    /// Steps between halvings of the trust region of bb-l0 [default: steps/30]
    #[arg(long, value_name = "N")]
    decay_interval: Option<usize>,
}

impl AttackArgs {
    /// One entry for each attack that is named, with the flags that it reads.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names a flag which no attack reads, or a value out of range.
    pub(super) fn settings(&self) -> Result<Vec<AttackSettings>> {
        let default = AttackSettings::default();
        let eps = self.eps.as_deref().map(|text| Epsilon::parse("--eps", text)).transpose()?;
        let step_size = self.step_size.as_deref();
        let step_size = step_size.map(|text| Epsilon::parse("--step-size", text)).transpose()?;
        let asked = |name: &String| AttackSettings {
            attack: name.clone(),
            eps: eps.unwrap_or(default.eps),
            steps: self.steps,
            step_size,
            relative_step_size: self.relative_step_size,
            random_start: self.random_start.unwrap_or(default.random_start),
            restarts: self.restarts.unwrap_or(default.restarts),
            target: self.target,
            early_stop: self.early_stop,
            eot_samples: self.eot_samples,
            binary_search_steps: self.binary_search_steps,
            faithful: self.faithful,
            decay_interval: self.decay_interval,
        };
        let asked: Vec<AttackSettings> = self.attack.iter().map(asked).collect();
        for (key, _) in self.given().into_iter().filter(|(_, given)| *given) {
            check_read(&asked, key, &format!("--{}", key.replace('_', "-")))?;
        }
        let of = |asked: &AttackSettings| {
            let settings = asked.only_read()?;
            settings.check()?;
            // Not resolved yet: what a sweep varies changes the defaults of others.
            Ok(settings)
        };
        asked.iter().map(of).collect()
    }

    /// Whether each key of the settings was given as a flag.
    fn given(&self) -> [(&'static str, bool); 12] {
        [
            ("eps", self.eps.is_some()),
            ("steps", self.steps.is_some()),
            ("step_size", self.step_size.is_some()),
            ("relative_step_size", self.relative_step_size.is_some()),
            ("random_start", self.random_start.is_some()),
            ("restarts", self.restarts.is_some()),
            ("target", self.target.is_some()),
            ("early_stop", self.early_stop),
            ("eot_samples", self.eot_samples.is_some()),
            ("binary_search_steps", self.binary_search_steps.is_some()),
            ("faithful", self.faithful),
            ("decay_interval", self.decay_interval.is_some()),
        ]
    }

    /// Refuses a flag beside a sweep of the same key.
    pub(super) fn check_sweep(&self, key: &str) -> Result<()> {
        match self.given().contains(&(key, true)) {
            true => {
                let want = format!("absent beside --sweep {key}=…, which gives its values");
                Err(Error::param(format!("--{key}"), "given", want))
            }
            false => Ok(()),
        }
    }
}

/// Refuses `flag` where no attack of the list reads `key`.
fn check_read(list: &[AttackSettings], key: &str, flag: &str) -> Result<()> {
    let reads = list.iter().map(|settings| settings.reads(key)).collect::<Result<Vec<bool>>>()?;
    if reads.contains(&true) {
        return Ok(());
    }
    let names: Vec<&str> = list.iter().map(|settings| settings.attack.as_str()).collect();
    let want = format!("absent for {}: {}", names.join(", "), read_by(key));
    Err(Error::param(flag, "given", want))
}
