//! Trains a small VGG16 by DNR on the embedded images, attacks it, and saves what is left of it.
//!
//! `cargo run --release --example train_and_prune`

use rewire::attack::{self, AttackSettings, Network, Outcome};
use rewire::data::Dataset;
use rewire::nn::{ArchSpec, Weights};
use rewire::prune::{Granularity, PruneSettings, Pruner};
use rewire::train::{Event, TrainSettings, Trainer};
use rewire::{Device, Mode, Result, Seed, io, models, prune};

/// All of it.
pub fn main() -> Result<()> {
    let (device, mode, seed) = (Device::new("auto")?, Mode::F32, Seed(1));
    let data = Dataset::load("fashion-mnist-mini")?;

    // Half of the input channels of every convolution stay; masks move after every epoch.
    let arch = ArchSpec::parse("vgg16:width=0.0625,in_channels=1")?.resolve();
    let model = models::initialised(arch, seed, &device)?;
    let settings = PruneSettings {
        method: "dnr".into(),
        granularity: Granularity::Channel,
        density: 0.5,
        keys: Default::default(),
    };
    let pruner = Pruner::new(&settings, &model, seed)?;

    // Clean and adversarial images alike, eps 8/255, three steps of PGD.
    let pgd = AttackSettings { steps: Some(3), ..Default::default() };
    let settings = TrainSettings {
        epochs: 3,
        warmup_epochs: 1,
        adversary: Some(pgd.clone()),
        ..Default::default()
    };
    let mut trainer = Trainer::new(settings, model, Some(pruner), seed, mode)?;
    trainer.run(&data, true, &[], &mut |_, event| {
        if let Event::Epoch(epoch) = event {
            println!("epoch {}: {:.1} % clean", epoch.epoch, epoch.test_accuracy);
        }
        Ok(())
    })?;

    let weights = Weights::default();
    let network = Network { model: trainer.model(), weights: &weights, mode };
    let (test, none) = (data.test()?, Outcome::default());
    let outcome = attack::evaluate(&network, test, &[pgd], 125, seed, none, &mut |_| Ok(()))?;
    println!("{:.1} % withstand PGD", Outcome::percent(&outcome.worst));

    let small = prune::shrink(trainer.model())?;
    let (before, after) = (trainer.model().parameter_count(), small.parameter_count());
    println!("{before} parameters, {after} after removing dead channels");
    io::save_model(&std::env::temp_dir().join("train_and_prune.safetensors"), &small)
}
