//! Attacks that can be stopped and go on, batch by batch.

use super::attack_folder::AttackFolder;
use crate::attack::{AttackSettings, Evaluation, Event, Network, Outcome};
use crate::data::Split;
use crate::{ErrorKind, Result, Seed};
use std::sync::atomic::{AtomicBool, Ordering};

/// Lists of attacks on the images of a split, one list after the other.
pub struct AttackJob<'a> {
    /// The network under attack.
    pub network: &'a Network<'a>,
    /// What `transfer` takes its gradients from.
    pub source: Option<&'a Network<'a>>,
    /// The images.
    pub split: &'a Split,
    /// The lists.
    pub lists: &'a [Vec<AttackSettings>],
    /// Images at once.
    pub batch_size: usize,
    /// The seed of every random number.
    pub seed: Seed,
}

impl AttackJob<'_> {
    /// What each list does. Finished batches are kept in `folder`, and those that it holds are not done again. `observe`
    /// hears how many images are done, counted over all lists, a batch at work by its share; once `stop` is true the work
    /// ends after that batch.
    ///
    /// Errors: [`ErrorKind::Interrupted`] where it was stopped.
    pub fn run(
        &self,
        folder: Option<&AttackFolder>,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(f64),
    ) -> Result<Vec<Outcome>> {
        (0..self.lists.len()).map(|list| self.run_list(list, folder, stop, observe)).collect()
    }

    fn run_list(
        &self,
        list: usize,
        folder: Option<&AttackFolder>,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(f64),
    ) -> Result<Outcome> {
        let Self { network, source, split, lists, batch_size, seed } = *self;
        let (n, attacks) = (split.len(), &lists[list][..]);
        let done = match folder {
            Some(folder) => folder.load(list, split, batch_size)?,
            None => Outcome::default(),
        };
        let mut saved = done.clean.len();
        let evaluation = Evaluation { network, source, split, attacks, batch_size, seed };
        evaluation.run(done, &mut |event| match event {
            Event::Attempt { images, share, batch } => {
                observe((list * n + images) as f64 + share * batch as f64);
                Ok(())
            }
            Event::Batch(outcome) => {
                if let Some(folder) = folder {
                    folder.save(list, outcome, saved, split)?;
                    saved = outcome.clean.len();
                }
                observe((list * n + outcome.clean.len()) as f64);
                let left = outcome.clean.len() < n || list + 1 < lists.len();
                match stop.load(Ordering::Relaxed) && left {
                    true => Err(ErrorKind::Interrupted("after a batch".into()).into()),
                    false => Ok(()),
                }
            }
        })
    }
}
