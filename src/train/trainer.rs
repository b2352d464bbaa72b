//! The training loop: a state machine that can be stopped after every event and resumed.

use super::noise::WeightNoise;
use super::{EpochEvent, Event, StepEvent, TrainExecution, TrainSettings};
use crate::data::{Dataset, Loader};
use crate::models;
use crate::nn::{Model, Weights};
use crate::ops::SparseFilter;
use crate::optim::{Optimizer, Schedule};
use crate::prune::{Pruner, Rewired};
use crate::{Mode, Result, Seed, Tape, Tensor};
use std::collections::BTreeMap;

/// A network in training.
pub struct Trainer {
    pub(super) settings: TrainSettings,
    pub(super) model: Model,
    pub(super) pruner: Option<Pruner>,
    /// The masks in the form that the sparse kernels read; empty where training is dense.
    pub(super) filters: BTreeMap<String, SparseFilter>,
    pub(super) noise: Option<WeightNoise>,
    pub(super) optimizer: Optimizer,
    pub(super) schedule: Schedule,
    pub(super) seed: Seed,
    pub(super) mode: Mode,
    /// Steps done.
    pub(super) step: u64,
    /// Whole epochs done.
    pub(super) epoch: usize,
    /// Steps of the current epoch done.
    pub(super) step_in_epoch: usize,
    /// Σ loss·images and Σ images of the current epoch.
    pub(super) loss_sum: f64,
    pub(super) images: usize,
    pub(super) best: Option<Best>,
    pub(super) finished: bool,
}

/// The epoch of the best checkpoint.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Best {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Percent of the validation images, or of the test images where none are held out; without an attack.
    pub accuracy: f64,
    /// Ones in the masks by pruned layer, in the order they run.
    pub active: Vec<usize>,
}

impl Trainer {
    /// A run before its first step. Masks are applied to the weights, and z of dynamic L2 is taken.
    pub fn new(
        settings: TrainSettings,
        mut model: Model,
        mut pruner: Option<Pruner>,
        seed: Seed,
        mode: Mode,
    ) -> Result<Self> {
        settings.check()?;
        if let Some(pruner) = &mut pruner {
            pruner.apply(&mut model)?;
            pruner.anchor(&model)?;
        }
        let noise = settings
            .weight_noise
            .map(|alpha| WeightNoise::new(&model, alpha, settings.optimizer.clone()))
            .transpose()?;
        let optimizer = Optimizer::new(settings.optimizer.clone());
        let lr = settings.optimizer.lr();
        let schedule = Schedule::new(settings.schedule.clone(), lr, settings.epochs);
        let mut trainer = Self {
            settings,
            model,
            pruner,
            filters: BTreeMap::new(),
            noise,
            optimizer,
            schedule,
            seed,
            mode,
            step: 0,
            epoch: 0,
            step_in_epoch: 0,
            loss_sum: 0.0,
            images: 0,
            best: None,
            finished: false,
        };
        trainer.build_filters()?;
        Ok(trainer)
    }

    /// [`Self::filters`] of the masks as they are now.
    pub(super) fn build_filters(&mut self) -> Result<()> {
        let Some(pruner) = &self.pruner else { return Ok(()) };
        if self.settings.execution == TrainExecution::Sparse {
            for (name, mask) in pruner.masks() {
                let weight = self.model.param(name)?;
                if weight.shape().len() == 4 {
                    self.filters.insert(name.to_owned(), SparseFilter::build(weight, mask)?);
                }
            }
        }
        Ok(())
    }

    /// The network in its current state.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The masks of the network; `None` where it is not pruned.
    pub fn pruner(&self) -> Option<&Pruner> {
        self.pruner.as_ref()
    }

    /// Momentum of every parameter that has had a step.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Whole epochs done.
    pub fn epochs_done(&self) -> usize {
        self.epoch
    }

    /// The best epoch so far.
    pub fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }

    /// Takes up what is left of the run on a training set of `images` images, after [`Self::load_state`] of a run with
    /// another number of epochs.
    ///
    /// Where that run was finished and this one is not, the masks are rewired as they are between any two epochs: the last
    /// epoch of a run leaves that out.
    pub fn prolong(&mut self, images: usize) -> Result<Option<Rewired>> {
        let (was, left) = (self.finished, self.step < self.total_steps(images));
        self.finished = !left && self.step_in_epoch == 0;
        match was && left {
            true => self.rewire(self.epoch),
            false => Ok(None),
        }
    }

    /// The learning rate of the epoch at work, or of the next one.
    pub fn lr(&self) -> f64 {
        self.schedule.lr(self.epoch)
    }

    /// Whether the epoch at work has done a step.
    pub fn is_within_epoch(&self) -> bool {
        self.step_in_epoch > 0
    }

    /// Whether there is nothing left to do.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Number of steps of the whole run on a training set of `images` images.
    pub fn total_steps(&self, images: usize) -> u64 {
        let steps = images.div_ceil(self.settings.batch_size) as u64 * self.settings.epochs as u64;
        self.settings.max_steps.map_or(steps, |most| most.min(steps))
    }

    /// Trains to the end. `observe` is called with every event. An error that it returns stops the run, which can be resumed.
    ///
    /// Errors: those of `observe`, and [`crate::ErrorKind::Diverged`] where a loss, a weight or a running statistic has left
    /// the range that training comes back from; `observe` has not heard of that step or epoch then.
    pub fn run(
        &mut self,
        data: &Dataset,
        shuffle: bool,
        augment: &[String],
        observe: &mut dyn FnMut(&Self, Event) -> Result<()>,
    ) -> Result<()> {
        let train = data.train()?;
        train.check_labels(self.model.arch().classes)?;
        data.test()?.check_labels(self.model.arch().classes)?;
        let mut loader =
            Loader::new(train, self.settings.batch_size)?.augment(self.seed, augment)?;
        if shuffle {
            loader = loader.shuffle(self.seed);
        }
        let total = self.total_steps(train.len());
        while !self.finished {
            let epoch = loader.epoch(self.epoch as u64);
            while self.step < total
                && let Some(batch) = epoch.batch(self.step_in_epoch)
            {
                let event = self.one_step(batch)?;
                observe(self, Event::Step(event))?;
            }
            self.end_epoch(data, total, observe)?;
        }
        Ok(())
    }

    fn one_step(&mut self, batch: crate::data::Batch) -> Result<StepEvent> {
        let (images, lr) = (batch.len(), self.schedule.lr(self.epoch));
        let losses = self.train_on(batch, lr)?;
        self.step += 1;
        self.step_in_epoch += 1;
        self.loss_sum += losses.total * images as f64;
        self.images += images;
        Ok(StepEvent {
            step: self.step,
            epoch: self.epoch + 1,
            lr,
            loss: losses.total,
            clean_loss: losses.clean,
            adversarial_loss: losses.adversarial,
            dynamic_l2: losses.dynamic_l2,
            images,
        })
    }

    /// Rewiring (not after the last epoch), z, evaluation of what a checkpoint would hold.
    fn end_epoch(
        &mut self,
        data: &Dataset,
        total: u64,
        observe: &mut dyn FnMut(&Self, Event) -> Result<()>,
    ) -> Result<()> {
        self.check_tensors()?;
        let last = self.step == total;
        let lr = self.schedule.lr(self.epoch);
        let rewired = match last {
            true => None,
            false => self.rewire(self.epoch + 1)?,
        };
        let batch_size = self.settings.batch_size;
        let forward =
            |x: &Tensor| self.model.forward_eval(&mut Tape::new(self.mode), x, &Weights::default());
        let scores = |split| models::evaluate(&self.model, split, batch_size, forward, |_| {});
        let test = scores(data.test()?)?;
        let validation = data.validation.as_ref().map(scores).transpose()?;
        let validation_accuracy = validation.map(|scores| scores.accuracy());
        let train_loss = self.loss_sum / self.images.max(1) as f64;
        self.schedule.epoch_ended(train_loss);
        let best = self.is_best(validation_accuracy.unwrap_or(test.accuracy()));
        let (prunable, active, nonzero) = self.density()?;
        self.epoch += 1;
        (self.step_in_epoch, self.loss_sum, self.images, self.finished) = (0, 0.0, 0, last);
        let epoch = self.epoch;
        let step = self.step;
        if let Some(rewired) = rewired {
            observe(self, Event::Rewired(epoch, rewired))?;
        }
        let (test_loss, test_accuracy) = (test.loss, test.accuracy());
        observe(
            self,
            Event::Epoch(EpochEvent {
                epoch,
                step,
                lr,
                train_loss,
                test_loss,
                test_accuracy,
                validation_accuracy,
                prunable,
                active,
                nonzero,
                best,
            }),
        )
    }

    /// What the pruning method does after epoch `epoch` (from 1), with everything that follows the masks.
    fn rewire(&mut self, epoch: usize) -> Result<Option<Rewired>> {
        let Some(pruner) = &mut self.pruner else { return Ok(None) };
        let (momentum, epochs) = (self.optimizer.momentum(), self.settings.epochs);
        let rewired = pruner.rewire(&mut self.model, momentum, epoch, epochs)?;
        pruner.anchor(&self.model)?;
        self.build_filters()?;
        Ok(rewired)
    }

    /// Whether the epoch that ends is the best: by clean accuracy, epochs after the warm-up before those in it.
    fn is_best(&mut self, accuracy: f64) -> bool {
        let warm = |epoch: usize| epoch <= self.settings.warmup_epochs;
        let epoch = self.epoch + 1;
        let better = match &self.best {
            None => true,
            Some(best) if warm(best.epoch) && !warm(epoch) => true,
            Some(best) => accuracy > best.accuracy,
        };
        if better {
            let layers = self.pruner.iter().flat_map(|pruner| pruner.active_by_layer());
            let active = layers.map(|(_, active)| active).collect();
            self.best = Some(Best { epoch, accuracy, active });
        }
        better
    }

    /// `(prunable weights, ones in their masks, prunable weights that are not 0)`.
    pub fn density(&self) -> Result<(usize, usize, usize)> {
        let names: Vec<String> = match &self.pruner {
            Some(pruner) => pruner.masks().map(|(name, _)| name.to_owned()).collect(),
            None => self.model.prunable(),
        };
        let (mut prunable, mut nonzero) = (0, 0);
        for name in names {
            let weight = self.model.param(&name)?.to_vec::<f32>()?;
            prunable += weight.len();
            nonzero += weight.iter().filter(|&&w| w != 0.0).count();
        }
        let active = self.pruner.as_ref().map_or(prunable, |pruner| pruner.active());
        Ok((prunable, active, nonzero))
    }
}
