//! Which settings an attack reads. A setting without effect would make a result look like another one, so it is refused.

use super::{ATTACKS, AttackEntry, AttackSettings, find, sequence};
use crate::{Error, Result};

/// Keys that every attack reads.
const ALWAYS: [&str; 2] = ["attack", "eps"];

impl AttackSettings {
    /// Whether the attack reads `key`; of a sequence, whether a member does.
    ///
    /// Errors: [`crate::ErrorKind::Param`] for an unknown attack.
    pub fn reads(&self, key: &str) -> Result<bool> {
        let reads = |name: &str| Ok(ALWAYS.contains(&key) || find(name)?.reads.contains(&key));
        match sequence::find(&self.attack) {
            None => reads(&self.attack),
            Some(entry) => {
                let each: Vec<bool> =
                    entry.members.iter().map(|&m| reads(m)).collect::<Result<_>>()?;
                Ok(each.contains(&true))
            }
        }
    }

    /// The settings with the defaults of all keys that the attack does not read.
    pub fn only_read(&self) -> Result<Self> {
        let mut table = table(self)?;
        for key in table.keys().cloned().collect::<Vec<_>>() {
            if !self.reads(&key)? {
                table.remove(&key);
            }
        }
        table
            .try_into()
            .map_err(|error: toml::de::Error| Error::param("attack", &self.attack, error.message()))
    }

    /// Refuses a key that the attack does not read. A value that the attack has anyway, as settings that are written out hold
    /// it, may stand.
    pub(super) fn check_read(&self) -> Result<()> {
        let mut known = vec![table(&Self::default())?];
        if sequence::find(&self.attack).is_none() {
            known.push(table(&self.only_read()?.resolved()?)?);
        }
        for (key, value) in table(self)? {
            let idle = known.iter().any(|known| known.get(&key) == Some(&value));
            if !idle && !self.reads(&key)? {
                let want = format!("absent for {}: {}", self.attack, read_by(&key));
                return Err(Error::param(key, value, want));
            }
        }
        Ok(())
    }
}

/// The attacks that read a key, in words.
pub fn read_by(key: &str) -> String {
    let names: Vec<&str> = ATTACKS
        .iter()
        .filter(|entry: &&AttackEntry| entry.reads.contains(&key))
        .map(|entry| entry.name)
        .collect();
    format!("only {} {} it", names.join(", "), if names.len() == 1 { "reads" } else { "read" })
}

/// The keys that are set, with the defaults of those that have one.
fn table(settings: &AttackSettings) -> Result<toml::Table> {
    toml::Table::try_from(settings)
        .map_err(|error| Error::param("attack", &settings.attack, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<()> {
        toml::from_str::<AttackSettings>(text).unwrap().check()
    }

    #[test]
    fn keys_without_effect_are_refused_with_the_attacks_that_read_them() {
        for (text, word) in [
            ("attack = 'fgsm'\nsteps = 7", "absent for fgsm: only pgd"),
            ("attack = 'fgsm'\nstep_size = 0.1", "fgsm-rs"),
            ("attack = 'fgsm'\nrestarts = 2", "apgd-ce"),
            ("attack = 'fgsm-rs'\nsteps = 7", "absent for fgsm-rs"),
            (
                "attack = 'transfer'\nearly_stop = true",
                "only fgsm-rs, pgd, pgd-l2, eot-pgd read it",
            ),
            ("eot_samples = 3", "only eot-pgd reads it"),
            ("binary_search_steps = 3", "only cw-l2, zoo read it"),
            ("faithful = true", "only cw-l2, bb-l0 read it"),
            ("decay_interval = 3", "only bb-l0 reads it"),
            ("attack = 'square'\nstep_size = 0.1", "absent for square"),
            ("attack = 'apgd-t'\ntarget = 'next'", "absent for apgd-t"),
            ("attack = 'fab-t'\nrandom_start = false\nrestarts = 3", "restarts = 3"),
            ("attack = 'autoattack'\nstep_size = 0.1", "absent for autoattack"),
            ("attack = 'autoattack'\nfaithful = true", "absent for autoattack"),
        ] {
            let message = check(text).unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
        // Some members of a sequence read these.
        check("attack = 'autoattack'\nsteps = 3\nrestarts = 2").unwrap();
    }

    #[test]
    fn settings_that_make_an_attack_do_nothing_are_refused() {
        for (text, word) in [
            ("steps = 0", "steps = 0"),
            ("attack = 'autoattack'\nsteps = 0", "steps = 0"),
            ("attack = 'cw-l2'\nsteps = 0", "steps = 0"),
            ("step_size = 0", "step_size = 0"),
            ("attack = 'zoo'\neps = 0\nstep_size = 0", "step_size = 0"),
            ("relative_step_size = 0.0", "relative_step_size = 0"),
            ("restarts = 3\nrandom_start = false", "restarts = 3"),
        ] {
            let message = check(text).unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
        // The left end of a curve: no attack, and nobody is misled about it.
        check("eps = 0").unwrap();
    }

    #[test]
    fn settings_written_out_are_read_again() {
        for entry in ATTACKS {
            for eps in ["0", "'8/255'", "0.3"] {
                let text = format!("attack = '{}'\neps = {eps}", entry.name);
                let resolved = toml::from_str::<AttackSettings>(&text).unwrap().resolved().unwrap();
                resolved.check().unwrap();
                assert_eq!(resolved.only_read().unwrap().resolved().unwrap(), resolved, "{text}");
            }
        }
    }
}
