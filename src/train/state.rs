//! The state that a resumed run needs to end with the same bits as one that was never stopped.

use super::noise::PART;
use super::trainer::{Best, Trainer};
use crate::nn::Model;
use crate::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counters; numbers that must come back to the bit are stored as their bits. Fields in alphabetical order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counters {
    best_accuracy: u64,
    best_active: Vec<usize>,
    best_epoch: usize,
    epoch: usize,
    finished: bool,
    images: usize,
    loss_sum: u64,
    schedule: [u64; 4],
    step: u64,
    step_in_epoch: usize,
}

impl Trainer {
    /// Everything that a resumed run needs: tensors by name, and the counters as a JSON document.
    pub fn state(&self) -> Result<(BTreeMap<String, Tensor>, String)> {
        let mut tensors = BTreeMap::new();
        let mut put = |prefix: &str, state: BTreeMap<String, Tensor>| {
            tensors.extend(state.into_iter().map(|(name, t)| (format!("{prefix}/{name}"), t)));
        };
        put("model", self.model.state_dict());
        put("optimizer", self.optimizer.state());
        if let Some(pruner) = &self.pruner {
            put("pruner", pruner.state()?);
        }
        if let Some(noise) = &self.noise {
            put(PART, noise.state());
        }
        let best = self.best.clone().unwrap_or_default();
        let counters = Counters {
            best_accuracy: best.accuracy.to_bits(),
            best_active: best.active,
            best_epoch: best.epoch,
            epoch: self.epoch,
            finished: self.finished,
            images: self.images,
            loss_sum: self.loss_sum.to_bits(),
            schedule: self.schedule.state().map(f64::to_bits),
            step: self.step,
            step_in_epoch: self.step_in_epoch,
        };
        let json = serde_json::to_string(&counters)
            .map_err(|error| Error::param("state", error, "written as JSON"))?;
        Ok((tensors, json))
    }

    /// Loads what [`Self::state`] returned into a run of the same recipe.
    ///
    /// Errors: [`crate::ErrorKind::Param`] or [`crate::ErrorKind::Shape`] for a state of another run.
    pub fn load_state(&mut self, tensors: BTreeMap<String, Tensor>, json: &str) -> Result<()> {
        let counters: Counters = serde_json::from_str(json)
            .map_err(|error| Error::param("state", error, "the counters of a run"))?;
        let mut parts: BTreeMap<String, BTreeMap<String, Tensor>> = BTreeMap::new();
        for (key, tensor) in tensors {
            let (part, name) = key
                .split_once('/')
                .ok_or_else(|| Error::param("state", &key, "a tensor of a run's state"))?;
            parts.entry(part.to_owned()).or_default().insert(name.to_owned(), tensor);
        }
        let mut take = |part: &str| parts.remove(part).unwrap_or_default();
        let (arch, graph) = (self.model.arch().clone(), self.model.graph().clone());
        let names = self.model.class_names().to_vec();
        let model = Model::new(arch, graph, take("model"), &self.model.device().clone())?;
        self.model = model.with_class_names(names);
        self.optimizer.load_state(take("optimizer"), self.model.params(), counters.step)?;
        if let Some(pruner) = &mut self.pruner {
            pruner.load_state(take("pruner"))?;
        }
        if let Some(noise) = &mut self.noise {
            noise.load_state(take(PART), counters.step)?;
        }
        self.build_filters()?;
        let Counters { best_epoch, epoch, finished, images, step, step_in_epoch, .. } = counters;
        let accuracy = f64::from_bits(counters.best_accuracy);
        let best = Best { epoch: best_epoch, accuracy, active: counters.best_active };
        self.best = (best_epoch > 0).then_some(best);
        self.schedule.load_state(counters.schedule.map(f64::from_bits));
        self.loss_sum = f64::from_bits(counters.loss_sum);
        (self.epoch, self.finished, self.images) = (epoch, finished, images);
        (self.step, self.step_in_epoch) = (step, step_in_epoch);
        Ok(())
    }
}
