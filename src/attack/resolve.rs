//! Settings against the registry: the defaults of an attack, and what it does not take.

use super::{AttackEntry, AttackSettings, Epsilon, Norm, Search, find, sequence};
use crate::{Error, Result};

impl AttackSettings {
    /// The number of steps; 1 where the method has one.
    fn steps_of(&self, entry: &AttackEntry) -> usize {
        if entry.steps == 1 { 1 } else { self.steps.unwrap_or(entry.steps) }
    }

    /// The settings with every default written out, see [`super::AttackEntry::resolve`]. A sequence stays as it is: its
    /// members are resolved, see [`super::expand`].
    ///
    /// Errors: [`crate::ErrorKind::Param`] for an unknown attack.
    pub fn resolved(&self) -> Result<Self> {
        if sequence::find(&self.attack).is_some() {
            return Ok(self.clone());
        }
        let entry = find(&self.attack)?;
        let mut resolved = self.clone();
        resolved.steps = Some(self.steps_of(entry));
        if let Some(factor) = resolved.relative_step_size.take() {
            resolved.step_size = Some(Epsilon::nearest(factor * self.eps.exact()));
        }
        if entry.search != Search::Ball {
            (resolved.random_start, resolved.restarts) = (false, 1);
        }
        (entry.resolve)(&mut resolved);
        Ok(resolved)
    }

    /// Checks every value, and that the attack reads every key that is set.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the key.
    pub fn check(&self) -> Result<()> {
        self.check_read()?;
        if let Some(sequence) = sequence::find(&self.attack) {
            return sequence.members(self)?.iter().try_for_each(Self::check);
        }
        let entry = find(&self.attack)?;
        if entry.norm == Norm::Linf && self.eps.exact() > 1.0 {
            return Err(Error::param("eps", self.eps, format!("from 0 to 1 for {}", self.attack)));
        }
        let counts = [
            ("steps", Some(self.steps_of(entry)), 1_000_000),
            ("restarts", Some(self.restarts), 1_000_000),
            ("eot_samples", self.eot_samples, 100_000),
            ("binary_search_steps", self.binary_search_steps, 100),
            ("decay_interval", self.decay_interval, 1_000_000),
        ];
        for (key, count, most) in counts {
            if let Some(count) = count.filter(|count| !(1..=most).contains(count)) {
                return Err(Error::param(key, count, format!("1 to {most}")));
            }
        }
        if self.restarts > 1 && !self.random_start {
            let want = "1 where random_start is false: attempts differ by their random starts";
            return Err(Error::param("restarts", self.restarts, want));
        }
        self.check_step_size(entry)
    }

    fn check_step_size(&self, entry: &AttackEntry) -> Result<()> {
        if let Some(factor) = self.relative_step_size {
            if !(factor > 0.0 && factor <= 1e6) {
                let want = "above 0 and at most 1000000";
                return Err(Error::param("relative_step_size", factor, want));
            }
            if self.step_size.is_some() {
                return Err(Error::param("relative_step_size", factor, "absent beside step_size"));
            }
        }
        // In a ball of radius 0 a step that is a share of the radius is 0, too.
        let share = entry.search != Search::Nearest && self.eps.value() == 0.0;
        match self.step_size {
            Some(size) if size.value() == 0.0 && !share => {
                let want = "above 0: steps of length 0 leave every image where it starts";
                Err(Error::param("step_size", size, want))
            }
            _ => Ok(()),
        }
    }

    /// Checks what [`super::adversary`] needs.
    ///
    /// Errors: [`crate::ErrorKind::Param`] for an attack that training cannot run.
    pub fn check_adversary(&self) -> Result<()> {
        self.check()?;
        let usable = find(&self.attack)
            .is_ok_and(|entry| entry.search != Search::Nearest && entry.name != "transfer");
        if usable {
            return Ok(());
        }
        let want = "one attack that searches inside eps without another network, such as pgd";
        Err(Error::param("adversary.attack", &self.attack, want))
    }

    /// Checks what `train.adversary` needs: [`Self::check_adversary`], and no key that training does not read.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the key.
    pub fn check_training(&self) -> Result<()> {
        if self.early_stop {
            let want = "absent: training takes the image after the last step";
            return Err(Error::param("adversary.early_stop", true, want));
        }
        self.check_adversary()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_toml() {
        for text in [
            "eps = \"4/255\"\nstep_size = 0.01",
            "eps = 0.25\ntarget = 3",
            "eps = 0\ntarget = \"least-likely\"",
            "attack = \"pgd-l2\"\neps = 2\nrelative_step_size = 0.1\nearly_stop = true",
            "attack = \"eot-pgd\"",
            "attack = \"fgsm-rs\"\nsteps = 1",
        ] {
            let settings: AttackSettings = toml::from_str(text).unwrap();
            settings.check().unwrap();
            let resolved = settings.resolved().unwrap();
            let written = toml::to_string(&resolved).unwrap();
            assert_eq!(toml::from_str::<AttackSettings>(&written).unwrap(), resolved);
        }
        for text in [
            "eps = -0.1",
            "eps = nan",
            "eps = \"x\"",
            "stepsize = 1",
            "steps = -1",
            "target = \"best\"",
            "target = -1",
        ] {
            assert!(toml::from_str::<AttackSettings>(text).is_err(), "{text}");
        }
        for text in [
            "eps = 1.5",
            "restarts = 0",
            "relative_step_size = -1.0",
            "relative_step_size = 0.1\nstep_size = 0.1",
            "attack = \"cw-l2\"\nrelative_step_size = 0.1",
            "eot_samples = 0",
            "attack = \"x\"",
        ] {
            let settings: AttackSettings = toml::from_str(text).unwrap();
            assert!(settings.check().is_err(), "{text}");
        }
    }

    #[test]
    fn a_step_is_absolute_or_a_share_of_eps() {
        let size = |text: &str| {
            toml::from_str::<AttackSettings>(text).unwrap().resolved().unwrap().step_size()
        };
        assert_eq!(size("eps = 0.5\nsteps = 5"), 0.25);
        assert_eq!(size("eps = 0.5\nrelative_step_size = 0.125"), 0.0625);
        assert_eq!(size("eps = 0.5\nstep_size = 0.125"), 0.125);
        assert_eq!(size("attack = \"fgsm-rs\"\neps = 0.5\nsteps = 9"), 0.625);
    }
}
