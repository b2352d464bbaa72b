//! Attacks: the ball, the box, what they leave alone, and that they find something.

use crate::fixture::network_of;
use rewire::attack::{AttackSettings, Draws, Network, Outcome, adversary, evaluate};
use rewire::data::Dataset;
use rewire::nn::{Model, Normalization, Weights};
use rewire::train::{TrainSettings, Trainer};
use rewire::{Device, Mode, Seed, Tape, Tensor, ops};
use std::sync::OnceLock;

const ARCH: &str = "resnet18:width=0.0625,classes=4,in_channels=1";
const DATA: &str = "synthetic:classes=4,size=32,channels=1,train=256,test=40";

fn settings(text: &str) -> AttackSettings {
    toml::from_str::<AttackSettings>(text).unwrap().resolved().unwrap()
}

/// A network that has learnt something.
fn trained() -> (Model, Dataset) {
    static MODEL: OnceLock<Model> = OnceLock::new();
    let data = Dataset::load(DATA).unwrap();
    let train = || {
        let text = "epochs = 12\nbatch_size = 16\noptimizer = { kind = 'sgd', lr = 0.02 }\n\
                    schedule = { kind = 'cosine' }";
        let model = network_of(ARCH, &Device::Cpu);
        let train: TrainSettings = toml::from_str(text).unwrap();
        let mut trainer = Trainer::new(train, model, None, Seed(1), Mode::F32).unwrap();
        trainer.run(&data, true, &[], &mut |_, _| Ok(())).unwrap();
        trainer.model().clone()
    };
    let model = MODEL.get_or_init(train).clone();
    (model, data)
}

fn attacked(model: &Model, data: &Dataset, attacks: &[AttackSettings], batch: usize) -> Outcome {
    let weights = Weights::default();
    let network = Network { model, weights: &weights, mode: Mode::F32 };
    let done = Outcome::default();
    let test = data.test().unwrap();
    evaluate(&network, test, attacks, batch, Seed(3), done, &mut |_| Ok(())).unwrap()
}

/// The first test images with their labels, on the model's device.
fn batch(model: &Model, data: &Dataset, n: usize) -> (Tensor, Tensor) {
    let test = data.test().unwrap();
    let [_, c, h, w] = test.shape;
    let nhwc = rewire::tensor::nchw_to_nhwc(&test.images_nchw(0..n), [n, c, h, w]);
    let x = Tensor::from_vec(nhwc, &[n, h, w, c], model.device()).unwrap();
    let labels = test.labels().unwrap()[..n].to_vec();
    (x, Tensor::from_vec(labels, &[n], model.device()).unwrap())
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn state_bits(model: &Model) -> Vec<Vec<u32>> {
    model.state_dict().values().map(bits).collect()
}

#[test]
fn one_step_of_eps_without_a_random_start_is_fgsm() {
    let (model, data) = trained();
    let (x, labels) = batch(&model, &data, 6);
    let weights = Weights::default();
    let network = Network { model: &model, weights: &weights, mode: Mode::F32 };
    let draws = Draws { seed: Seed(1), stream: "x", restart: 0, turn: 0 };
    let run = |text| adversary(&network, &x, &labels, &settings(text), draws).unwrap();
    let pgd = run("eps = '8/255'\nsteps = 1\nstep_size = '8/255'\nrandom_start = false");
    let fgsm = run("attack = 'fgsm'\neps = '8/255'");
    assert_eq!(bits(&pgd), bits(&fgsm));
    assert_ne!(bits(&pgd), bits(&x));
}

#[test]
fn the_loss_after_seven_steps_is_above_that_of_the_start() {
    let (model, data) = trained();
    for device in [Device::Cpu, Device::new("cuda-host").unwrap()] {
        let model = model.to_device(&device).unwrap();
        let (x, labels) = batch(&model, &data, 6);
        let weights = Weights::default();
        let network = Network { model: &model, weights: &weights, mode: Mode::F32 };
        let draws = Draws { seed: Seed(1), stream: "x", restart: 0, turn: 0 };
        let loss = |steps: usize, size: f64, restarts: usize| {
            let text = format!(
                "eps = '8/255'\nsteps = {steps}\nstep_size = {size}\nrestarts = {restarts}"
            );
            let x = adversary(&network, &x, &labels, &settings(&text), draws).unwrap();
            let logits = network.logits(&x).unwrap();
            ops::softmax_xent_each(&logits, &labels).unwrap().to_vec::<f32>().unwrap()
        };
        // A step that moves no pixel leaves the images at their starts.
        let (start, end, best) = (loss(1, 1e-12, 1), loss(7, 0.01, 1), loss(7, 0.01, 3));
        let mean = |each: &[f32]| each.iter().sum::<f32>() / each.len() as f32;
        assert!(mean(&end) > mean(&start), "{device}: {end:?} {start:?}");
        // Training keeps, per image, the restart of largest loss; the first is among them.
        assert!(best.iter().zip(&end).all(|(best, one)| best >= one), "{device}");
    }
}

#[test]
fn starts_do_not_depend_on_the_batch_and_restarts_only_help() {
    let (model, data) = trained();
    let attack =
        |restarts: usize| settings(&format!("eps = '6/255'\nsteps = 2\nrestarts = {restarts}"));
    let one = attacked(&model, &data, &[attack(1)], 20);
    assert_eq!(attacked(&model, &data, &[attack(1)], 7), one);
    let five = attacked(&model, &data, &[attack(5)], 20);
    assert!(five.robust[0].iter().zip(&one.robust[0]).all(|(five, one)| !five | one));
    assert_ne!(five.robust, one.robust, "restarts find nothing more");
    // The worst case of two attacks is what both withstand, and going on from the middle changes nothing.
    let both = [settings("attack = 'fgsm'\neps = '6/255'"), attack(2)];
    let whole = attacked(&model, &data, &both, 4);
    let worst = whole.robust[0].iter().zip(&whole.robust[1]).map(|(a, b)| a & b);
    assert_eq!(worst.collect::<Vec<_>>(), whole.worst);
    let weights = Weights::default();
    let network = Network { model: &model, weights: &weights, mode: Mode::F32 };
    let mut half = Outcome::default();
    let stopped = evaluate(
        &network,
        data.test().unwrap(),
        &both,
        4,
        Seed(3),
        Outcome::default(),
        &mut |so_far| {
            half = so_far.clone();
            match so_far.clean.len() {
                8 => Err(rewire::ErrorKind::Interrupted("here".into()).into()),
                _ => Ok(()),
            }
        },
    );
    assert!(stopped.is_err() && half.clean.len() == 8);
    let test = data.test().unwrap();
    let rest = evaluate(&network, test, &both, 4, Seed(3), half, &mut |_| Ok(())).unwrap();
    assert_eq!(rest, whole);
}

#[test]
fn the_gradient_of_pixels_goes_through_the_normalisation() {
    let data = Dataset::load(DATA).unwrap();
    let plain = network_of(ARCH, &Device::Cpu);
    let mut arch = plain.arch().clone();
    arch.normalize = Some(Normalization { mean: vec![0.25], std: vec![0.125] });
    let normalised = crate::fixture::network(arch, &Device::Cpu);
    let (x, labels) = batch(&plain, &data, 3);
    let weights = Weights::default();
    let gradient = |model: &Model, x: &Tensor| {
        let network = Network { model, weights: &weights, mode: Mode::F32 };
        network.input_gradient(x, &labels).unwrap().to_vec::<f32>().unwrap()
    };
    // The plain network on (x − mean)/std: its gradient is std times smaller.
    let shifted = x.to_vec::<f32>().unwrap().iter().map(|x| (x - 0.25) / 0.125).collect();
    let shifted = Tensor::from_vec(shifted, x.shape(), &Device::Cpu).unwrap();
    let want: Vec<f64> = gradient(&plain, &shifted).iter().map(|g| f64::from(*g) / 0.125).collect();
    let error = crate::fixture::relative_error(&gradient(&normalised, &x), &want);
    assert!(error < 1e-6, "{error}");
}

#[test]
fn a_pass_for_the_pixels_leaves_running_statistics_and_asks_for_nothing_else() {
    let data = Dataset::load(DATA).unwrap();
    let model = network_of(ARCH, &Device::Cpu);
    let before = state_bits(&model);
    let (x, labels) = batch(&model, &data, 4);
    let mut tape = Tape::new(Mode::F32);
    tape.watch(&x);
    let logits = model.forward_eval(&mut tape, &x, &Weights::default()).unwrap();
    let loss = ops::softmax_xent(&mut tape, &logits, &labels).unwrap();
    let one = Tensor::from_vec(vec![1.0f32], &[1], &Device::Cpu).unwrap();
    let gradients = tape.backward(&loss, one).unwrap();
    assert!(model.params().values().all(|param| gradients.get(param).is_none()));
    assert!(gradients.get(&x).is_some());
    assert_eq!(state_bits(&model), before);
}

#[test]
fn the_stored_network_is_neither_fragile_nor_robust() {
    let split = crate::fixture::attack_images(64);
    for (name, clean, standing) in [("attack_net", 53, 12), ("attack_net_adversarial", 46, 42)] {
        let model = crate::fixture::attack_net(name, &Device::Cpu);
        let weights = Weights::default();
        let network = Network { model: &model, weights: &weights, mode: Mode::F32 };
        let attacks = [settings("eps = '8/255'")];
        let done = Outcome::default();
        let outcome =
            evaluate(&network, &split, &attacks, 64, Seed(1), done, &mut |_| Ok(())).unwrap();
        let count = |flags: &[bool]| flags.iter().filter(|&&flag| flag).count();
        assert_eq!(count(&outcome.clean), clean, "{name}");
        assert!(count(&outcome.robust[0]).abs_diff(standing) <= 1, "{name}");
    }
}
