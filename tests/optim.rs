//! Optimisers and schedules against PyTorch (`fixtures/optim.json`) and against hand computation.

use crate::ops::{assert_close, devices};
use rewire::optim::{Constraint, Optimizer, OptimizerSettings, Schedule, ScheduleSettings};
use rewire::{DType, Device, Tensor};
use serde::Deserialize;
use std::collections::BTreeMap;

type Numbers = BTreeMap<String, Vec<f64>>;
type Params = BTreeMap<String, Tensor>;

#[derive(Deserialize)]
struct Stored {
    shapes: BTreeMap<String, Vec<usize>>,
    weights: Numbers,
    gradients: Vec<Numbers>,
    optimizers: Vec<StoredOptimizer>,
    schedules: Vec<StoredSchedule>,
}

#[derive(Deserialize)]
struct StoredOptimizer {
    settings: OptimizerSettings,
    weights: Numbers,
}

#[derive(Deserialize)]
struct StoredSchedule {
    settings: ScheduleSettings,
    losses: Vec<f64>,
    lr: Vec<f64>,
}

impl Stored {
    fn read() -> Self {
        serde_json::from_str(include_str!("fixtures/optim.json")).unwrap()
    }

    fn tensors(&self, numbers: &Numbers, device: &Device) -> Params {
        let tensor = |(name, x): (&String, &Vec<f64>)| {
            let x = x.iter().map(|&x| x as f32).collect();
            (name.clone(), Tensor::from_vec(x, &self.shapes[name], device).unwrap())
        };
        numbers.iter().map(tensor).collect()
    }
}

fn free(_: &str) -> Constraint<'static> {
    Constraint::default()
}

#[test]
fn optimizers_equal_pytorch() {
    let stored = Stored::read();
    for device in devices() {
        for StoredOptimizer { settings, weights } in &stored.optimizers {
            let mut optimizer = Optimizer::new(settings.clone());
            let mut params = stored.tensors(&stored.weights, &device);
            for gradients in &stored.gradients {
                let gradients = stored.tensors(gradients, &device);
                optimizer.step(&mut params, &gradients, settings.lr(), free).unwrap();
            }
            for (name, want) in weights {
                let what = format!("{settings:?}, {name} on {device}");
                assert_close(what, &params[name].to_vec().unwrap(), want, 1e-6);
            }
        }
    }
}

#[test]
fn nesterov_equals_three_steps_by_hand() {
    let settings =
        OptimizerSettings::Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.1 };
    // g + wd·w: 0.6, −0.1614, 1.0868066; v: 0.6, 0.3786, 1.4275466; g + 0.9·v: 1.14, 0.17934, 2.37159854.
    let steps = [(0.5, 0.886), (-0.25, 0.868066), (1.0, 0.630906146)];
    for device in devices() {
        let one = |x: f32| {
            let tensor = Tensor::from_vec(vec![x], &[1], &device).unwrap();
            Params::from([("bn.bias".to_owned(), tensor)])
        };
        let (mut optimizer, mut w) = (Optimizer::new(settings.clone()), one(1.0));
        for (g, want) in steps {
            optimizer.step(&mut w, &one(g), 0.1, free).unwrap();
            assert_close(&device, &w["bn.bias"].to_vec().unwrap(), &[want], 1e-6);
        }
        assert_close(
            &device,
            &optimizer.momentum()["bn.bias"].to_vec().unwrap(),
            &[1.4275466],
            1e-6,
        );
    }
}

#[test]
fn a_masked_weight_stays_zero_while_its_momentum_grows() {
    for device in devices() {
        let tensor = |x: [f32; 2]| Tensor::from_vec(x.to_vec(), &[2], &device).unwrap();
        let mask = Tensor::from_vec(vec![1u8, 0], &[2], &device).unwrap();
        let z = tensor([0.5, 9.0]);
        let held = |_: &str| Constraint { mask: Some(&mask), anchor: Some(&z), rho: 0.5 };
        let mut w = Params::from([("w".to_owned(), tensor([1.0, 0.0]))]);
        let g = Params::from([("w".to_owned(), tensor([0.0, 2.0]))]);
        let mut optimizer = Optimizer::new(OptimizerSettings::Sgd {
            lr: 1.0,
            momentum: 0.5,
            nesterov: false,
            weight_decay: 0.0,
        });
        optimizer.step(&mut w, &g, 1.0, held).unwrap();
        // The active weight goes towards z = 0.5 by rho·(1 − 0.5) = 0.25.
        assert_eq!(w["w"].to_vec::<f32>().unwrap(), [0.75, 0.0]);
        assert_eq!(optimizer.momentum()["w"].to_vec::<f32>().unwrap(), [0.25, 2.0]);
        optimizer.step(&mut w, &g, 1.0, held).unwrap();
        assert_eq!(w["w"].to_vec::<f32>().unwrap(), [0.5, 0.0]);
        assert_eq!(optimizer.momentum()["w"].to_vec::<f32>().unwrap(), [0.25, 3.0]);
    }
}

#[test]
fn a_state_carried_over_gives_the_same_bits() {
    let stored = Stored::read();
    for StoredOptimizer { settings, .. } in &stored.optimizers {
        let gradients = stored.gradients.iter().map(|g| stored.tensors(g, &Device::Cpu));
        let gradients = gradients.collect::<Vec<_>>();
        let mut optimizer = Optimizer::new(settings.clone());
        let mut params = stored.tensors(&stored.weights, &Device::Cpu);
        let mut interrupted = (optimizer.clone(), params.clone());
        for (t, g) in gradients.iter().enumerate() {
            optimizer.step(&mut params, g, settings.lr(), free).unwrap();
            interrupted.0.step(&mut interrupted.1, g, settings.lr(), free).unwrap();
            let mut fresh = Optimizer::new(settings.clone());
            fresh.load_state(interrupted.0.state(), &params, t as u64 + 1).unwrap();
            interrupted.0 = fresh;
        }
        let bits = |params: &Params| {
            let bits =
                |x: &Tensor| x.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
            params.values().map(bits).collect::<Vec<Vec<u32>>>()
        };
        assert_eq!(bits(&params), bits(&interrupted.1), "{settings:?}");
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let params =
        Params::from([("w".to_owned(), Tensor::zeros(&[3], DType::F32, &Device::Cpu).unwrap())]);
    let other = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for (name, tensor, words) in [
        ("momentum.v", other(&[3]), "momentum.v"),
        ("third.w", other(&[3]), "third.w"),
        ("w", other(&[3]), "w"),
        ("momentum.w", other(&[4]), "[3], got [4]"),
    ] {
        let state = Params::from([(name.to_owned(), tensor)]);
        let mut optimizer = Optimizer::new(OptimizerSettings::default());
        let message = optimizer.load_state(state, &params, 1).unwrap_err().to_string();
        assert!(message.contains(words), "{name}: {message}");
    }
}

#[test]
fn schedules_equal_pytorch() {
    for StoredSchedule { settings, losses, lr } in Stored::read().schedules {
        settings.check().unwrap();
        let mut schedule = Schedule::new(settings.clone(), 0.1, losses.len());
        for (epoch, (loss, want)) in losses.iter().zip(lr).enumerate() {
            let got = schedule.lr(epoch);
            assert!((got - want).abs() <= 1e-12, "{settings:?}, epoch {epoch}: {got} for {want}");
            schedule.epoch_ended(*loss);
            let mut resumed = Schedule::new(settings.clone(), 0.1, losses.len());
            resumed.load_state(schedule.state());
            assert_eq!(resumed, schedule);
        }
    }
}

#[test]
fn settings_name_the_key_that_is_wrong() {
    let schedule = |text: &str| toml::from_str::<ScheduleSettings>(text);
    for (text, word) in [
        ("kind = 'step'", "milestones"),
        ("kind = 'steps'", "steps"),
        ("kind = 'step'\nmilestones = [1]\ngama = 0.1", "gama"),
    ] {
        let message = schedule(text).unwrap_err().to_string();
        assert!(message.contains(word), "{text}: {message}");
    }
    for (text, key) in [
        ("kind = 'step'\nmilestones = [1]\ngamma = 2.0", "train.schedule.gamma"),
        ("kind = 'cosine'\neta_min = -1.0", "train.schedule.eta_min"),
        ("kind = 'cosine'\nt_max = 0", "train.schedule.t_max"),
        ("kind = 'plateau'\nfactor = nan", "train.schedule.factor"),
        ("kind = 'plateau'\nthreshold = inf", "train.schedule.threshold"),
        ("kind = 'plateau'\nmin_lr = inf", "train.schedule.min_lr"),
    ] {
        let error = schedule(text).unwrap().check().unwrap_err().to_string();
        assert!(error.starts_with(key), "{error}");
    }
    let text = "kind = 'sgd'\nmomentum = 0.0";
    let error = toml::from_str::<OptimizerSettings>(text).unwrap().check().unwrap_err();
    assert!(error.to_string().starts_with("train.optimizer.nesterov"), "{error}");
    for settings in
        [ScheduleSettings::Constant, ScheduleSettings::Cosine { t_max: None, eta_min: 0.0 }]
    {
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(schedule(&text).unwrap(), settings);
    }
}
