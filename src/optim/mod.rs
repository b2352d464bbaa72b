//! Optimisers ([`Optimizer`]) and learning-rate schedules ([`Schedule`]), with PyTorch's update rules.
//!
//! [`crate::train::Trainer`] uses both; a training loop of your own starts with [`Optimizer::new`] and [`Optimizer::step`].

mod schedule;

pub use schedule::{Schedule, ScheduleSettings};

use crate::ops::{AdamStep, SgdParameter, SgdStep, masked_adam, masked_sgd};
use crate::{DType, Error, Result, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Which optimiser, and its settings: `train.optimizer` of a recipe. Weight decay acts on all parameters, as in PyTorch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum OptimizerSettings {
    /// Stochastic gradient descent with momentum: `torch.optim.SGD`.
    Sgd {
        /// Learning rate at the start; the schedule changes it.
        #[serde(default = "defaults::sgd_lr")]
        lr: f64,
        /// Momentum μ, at least 0 and below 1.
        #[serde(default = "defaults::momentum")]
        momentum: f64,
        /// Nesterov momentum.
        #[serde(default = "defaults::nesterov")]
        nesterov: bool,
        /// L2 coefficient.
        #[serde(default = "defaults::weight_decay")]
        weight_decay: f64,
    },
    /// Adam: `torch.optim.Adam`.
    Adam {
        /// Learning rate at the start; the schedule changes it.
        #[serde(default = "defaults::adam_lr")]
        lr: f64,
        /// Decay rates of the first and the second moment.
        #[serde(default = "defaults::betas")]
        betas: [f64; 2],
        /// Added to the square root of the second moment.
        #[serde(default = "defaults::eps")]
        eps: f64,
        /// L2 coefficient.
        #[serde(default)]
        weight_decay: f64,
    },
}

mod defaults {
    pub fn sgd_lr() -> f64 {
        0.1
    }
    pub fn momentum() -> f64 {
        0.9
    }
    pub fn nesterov() -> bool {
        true
    }
    pub fn weight_decay() -> f64 {
        5e-4
    }
    pub fn adam_lr() -> f64 {
        1e-3
    }
    pub fn betas() -> [f64; 2] {
        [0.9, 0.999]
    }
    pub fn eps() -> f64 {
        1e-8
    }
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self::Sgd {
            lr: defaults::sgd_lr(),
            momentum: defaults::momentum(),
            nesterov: defaults::nesterov(),
            weight_decay: defaults::weight_decay(),
        }
    }
}

impl OptimizerSettings {
    /// The learning rate at the start.
    pub fn lr(&self) -> f64 {
        match self {
            Self::Sgd { lr, .. } | Self::Adam { lr, .. } => *lr,
        }
    }

    /// Checks the ranges.
    ///
    /// Errors: [`crate::ErrorKind::Param`] that names the key.
    pub fn check(&self) -> Result<()> {
        let key = |name| format!("train.optimizer.{name}");
        let positive = |name, x: f64| match x.is_finite() && x > 0.0 {
            true => Ok(()),
            false => Err(Error::param(key(name), x, "finite and above 0")),
        };
        let rate = |name, x: f64| match (0.0..1.0).contains(&x) {
            true => Ok(()),
            false => Err(Error::param(key(name), x, "at least 0 and below 1")),
        };
        let (Self::Sgd { lr, weight_decay, .. } | Self::Adam { lr, weight_decay, .. }) = self;
        positive("lr", *lr)?;
        if !(weight_decay.is_finite() && *weight_decay >= 0.0) {
            let want = "finite and at least 0";
            return Err(Error::param(key("weight_decay"), weight_decay, want));
        }
        match self {
            Self::Sgd { momentum, nesterov, .. } => {
                rate("momentum", *momentum)?;
                if *nesterov && *momentum == 0.0 {
                    let want = "false where momentum is 0";
                    return Err(Error::param(key("nesterov"), nesterov, want));
                }
                Ok(())
            }
            Self::Adam { betas, eps, .. } => {
                betas.iter().try_for_each(|&beta| rate("betas", beta))?;
                positive("eps", *eps)
            }
        }
    }
}

/// What keeps a parameter pruned, or near to a value, in [`Optimizer::step`]. The default does neither.
#[derive(Default, Clone, Copy)]
pub struct Constraint<'a> {
    /// 1 where the parameter is kept; where the mask is 0, the parameter is set to exactly 0.
    pub mask: Option<&'a Tensor>,
    /// z of the dynamic L2 term `(rho/2)·Σ(w⊙m − z)²`, towards which kept weights are pulled.
    pub anchor: Option<&'a Tensor>,
    /// rho of that term.
    pub rho: f32,
}

/// An optimiser with its state: a momentum for each parameter, by name.
#[derive(Debug, Clone)]
pub struct Optimizer {
    settings: OptimizerSettings,
    /// Momentum of SGD, first moment of Adam.
    momentum: BTreeMap<String, Tensor>,
    /// Second moment of Adam.
    second: BTreeMap<String, Tensor>,
    steps: u64,
}

impl Optimizer {
    /// An optimiser before its first step.
    pub fn new(settings: OptimizerSettings) -> Self {
        Self { settings, momentum: BTreeMap::new(), second: BTreeMap::new(), steps: 0 }
    }

    /// The momentum of every parameter that was updated at least once. Masks do not act on it.
    pub fn momentum(&self) -> &BTreeMap<String, Tensor> {
        &self.momentum
    }

    /// Updates every parameter that has a gradient, at learning rate `lr`. `constraint` answers what holds for the parameter of a
    /// name.
    ///
    /// Errors: [`crate::ErrorKind::Shape`] where a gradient or mask does not fit its parameter.
    pub fn step<'a>(
        &mut self,
        params: &mut BTreeMap<String, Tensor>,
        gradients: &BTreeMap<String, Tensor>,
        lr: f64,
        constraint: impl Fn(&str) -> Constraint<'a>,
    ) -> Result<()> {
        self.steps += 1;
        let mut first = BTreeSet::new();
        for (name, w) in &*params {
            if gradients.contains_key(name) && !self.momentum.contains_key(name) {
                first.insert(name.clone());
                self.momentum.insert(name.clone(), zeros(w)?);
                if let OptimizerSettings::Adam { .. } = self.settings {
                    self.second.insert(name.clone(), zeros(w)?);
                }
            }
        }
        // Both maps are in the order of the names.
        let mut momenta = self.momentum.iter_mut();
        let parameters = params.iter_mut().filter_map(|(name, w)| {
            let g = gradients.get(name)?;
            let v = momenta.find(|(other, _)| *other == name)?.1;
            let Constraint { mask, anchor, rho } = constraint(name);
            let (z, first) = (anchor.filter(|_| rho > 0.0), first.contains(name));
            Some((name, SgdParameter { w, v, g, mask, z, rho, first }))
        });
        match &self.settings {
            OptimizerSettings::Sgd { momentum, nesterov, weight_decay, .. } => {
                let step = SgdStep {
                    lr: lr as f32,
                    momentum: *momentum as f32,
                    nesterov: *nesterov,
                    weight_decay: *weight_decay as f32,
                };
                let mut parameters: Vec<_> = parameters.map(|(_, parameter)| parameter).collect();
                masked_sgd(&mut parameters, &step)
            }
            OptimizerSettings::Adam { betas, eps, weight_decay, .. } => {
                for (name, SgdParameter { w, v, g, mask, z, rho, .. }) in parameters {
                    let Some(second) = self.second.get_mut(name) else { continue };
                    let step = AdamStep {
                        lr: lr as f32,
                        betas: *betas,
                        eps: *eps as f32,
                        weight_decay: *weight_decay as f32,
                        rho,
                        t: u32::try_from(self.steps).unwrap_or(u32::MAX),
                    };
                    masked_adam(w, [v, second], g, mask, z, &step)?;
                }
                Ok(())
            }
        }
    }

    /// The state that a resumed run needs, by name.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let of = |prefix: &'static str, map: &BTreeMap<String, Tensor>| {
            map.iter()
                .map(move |(name, tensor)| (format!("{prefix}.{name}"), tensor.clone()))
                .collect::<Vec<_>>()
        };
        [of("momentum", &self.momentum), of("second", &self.second)].into_iter().flatten().collect()
    }

    /// Restores what [`Self::state`] returned after `steps` steps.
    ///
    /// Errors: [`crate::ErrorKind::Param`] for a tensor that belongs to no parameter, [`crate::ErrorKind::Shape`] for one of another
    /// shape or type than its parameter.
    pub fn load_state(
        &mut self,
        state: BTreeMap<String, Tensor>,
        params: &BTreeMap<String, Tensor>,
        steps: u64,
    ) -> Result<()> {
        self.steps = steps;
        for (key, tensor) in state {
            let unknown = || Error::param("state", &key, "the state of a parameter");
            let (kind, name) = key.split_once('.').ok_or_else(unknown)?;
            let param = params.get(name).ok_or_else(unknown)?;
            tensor.expect_shape("optimizer", "state", param.shape())?;
            tensor.expect_dtype("optimizer", DType::F32)?;
            let tensor = tensor.to_device(&param.device())?;
            match kind {
                "momentum" => self.momentum.insert(name.to_owned(), tensor),
                "second" => self.second.insert(name.to_owned(), tensor),
                _ => return Err(unknown()),
            };
        }
        Ok(())
    }
}

fn zeros(like: &Tensor) -> Result<Tensor> {
    Tensor::zeros(like.shape(), DType::F32, &like.device())
}
