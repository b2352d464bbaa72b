//! Attacks that can be stopped and go on, batch by batch.

use super::attack_folder::AttackFolder;
use crate::attack::{AttackSettings, Evaluation, Event, Network, Outcome};
use crate::data::Split;
use crate::{ErrorKind, Result, Seed};
use std::sync::atomic::{AtomicBool, Ordering};

/// Lists of attacks on the images of a split, one list after the other.
pub struct AttackJob<'a> {
    /// The attacked network.
    pub network: &'a Network<'a>,
    /// The network that `transfer` takes its gradients from.
    pub source: Option<&'a Network<'a>>,
    /// The images.
    pub split: &'a Split,
    /// The lists of attacks.
    pub lists: &'a [Vec<AttackSettings>],
    /// Images in a batch.
    pub batch_size: usize,
    /// The seed of every random number.
    pub seed: Seed,
}

impl AttackJob<'_> {
    /// Runs every list of attacks and returns one outcome for each list.
    ///
    /// Finished batches are written to `folder`, and those that it holds are not computed again. `observe` is called with the
    /// number of images done over all lists; a batch at work counts by its finished share. Once `stop` is true the work ends
    /// after the batch at work.
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
