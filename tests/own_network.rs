//! A network of the user's own, written with `Builder`, does all that one of the registry does.

use crate::fixture;
use rewire::attack::{self, AttackSettings, Network, Outcome};
use rewire::data::Dataset;
use rewire::io::{self, Hints, ImportSettings};
use rewire::models;
use rewire::nn::{Arch, Builder, Conv2d, Model, Weights, Window};
use rewire::optim::OptimizerSettings;
use rewire::prune::{self, Granularity, PruneSettings, Pruner};
use rewire::train::{TrainSettings, Trainer};
use rewire::{Device, Mode, Result, Seed, Tape, Tensor};

const DATA: &str = "synthetic:classes=4,size=12,channels=1,train=256,test=64";

/// Every operation of `Builder`: square and rectangular filters, both poolings, a sum, layers with bias and without.
fn own_network() -> Result<Model> {
    let arch = Arch::custom("own", 1, 4, 12);
    let mut net = Builder::new(&arch, 1.0);
    let mut x = net.last();
    x = net.conv(x, "stem", 8, 3, 1, true);
    x = net.batch_norm(x, "stem_bn");
    x = net.relu(x);
    x = net.max_pool(x, Window { size: 3, stride: 2, padding: 1 });
    let mut y = net.conv(x, "inner", 8, 3, 1, false);
    y = net.relu(y);
    let shortcut = Conv2d { filters: 8, window: [1, 1], stride: 1, padding: 0, bias: false };
    x = net.conv2d(x, "shortcut", shortcut);
    x = net.add(x, y);
    let flat = Conv2d { filters: 12, window: [1, 3], stride: 1, padding: 1, bias: true };
    x = net.conv2d(x, "flat", flat);
    x = net.relu(x);
    x = net.avg_pool(x, Window { size: 2, stride: 2, padding: 0 });
    x = net.flatten(x);
    // [6, 6] with padding 1 and a filter of 1×3 is [8, 6], and half of that [4, 3].
    assert_eq!(net.channels(x), 12 * 4 * 3);
    x = net.linear(x, "hidden", 16, false);
    x = net.relu(x);
    net.linear(x, "logits", arch.classes, true);
    Model::initialised(arch, net.finish(), Seed(1), &Device::Cpu)
}

fn logits(model: &Model, x: &Tensor) -> Vec<f32> {
    let mut tape = Tape::new(Mode::F32);
    model.forward_eval(&mut tape, x, &Weights::default()).unwrap().to_vec().unwrap()
}

/// The same values up to the order of sums.
#[track_caller]
fn expect_equal(got: &[f32], want: &[f32]) {
    let want: Vec<f64> = want.iter().copied().map(f64::from).collect();
    let error = fixture::relative_error(got, &want);
    assert!(error < 1e-5, "{error}");
}

#[test]
fn an_own_network_is_trained_pruned_attacked_shrunk_timed_saved_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let data = Dataset::load(DATA).unwrap();
    let model = own_network().unwrap();

    // Trained while half of the input channels are pruned.
    let settings = PruneSettings {
        method: "dnr".into(),
        granularity: Granularity::Channel,
        density: 0.5,
        keys: Default::default(),
    };
    let pruner = Pruner::new(&settings, &model, Seed(1)).unwrap();
    let optimizer =
        OptimizerSettings::Adam { lr: 0.01, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
    let settings = TrainSettings { epochs: 10, batch_size: 16, optimizer, ..Default::default() };
    let mut trainer = Trainer::new(settings, model, Some(pruner), Seed(1), Mode::F32).unwrap();
    trainer.run(&data, true, &[], &mut |_, _| Ok(())).unwrap();
    let accuracy = trainer.best().unwrap().accuracy;
    assert!(accuracy > 60.0, "{accuracy} % where chance is 25 %");
    let mut model = trainer.model().clone();

    // Pruned once more, by whole filters.
    let settings = PruneSettings {
        method: "magnitude".into(),
        granularity: Granularity::Filter,
        density: 0.5,
        keys: Default::default(),
    };
    Pruner::new(&settings, &model, Seed(1)).unwrap().apply(&mut model).unwrap();
    let layer = &model.layers().unwrap()[0];
    assert_eq!((layer.name.as_str(), model.kept(layer).unwrap().filters), ("stem", 4));

    let weights = Weights::default();
    let network = Network { model: &model, weights: &weights, mode: Mode::F32 };
    let (pgd, none) = (AttackSettings { steps: Some(2), ..Default::default() }, Outcome::default());
    let test = data.test().unwrap();
    let outcome = attack::evaluate(&network, test, &[pgd], 32, Seed(1), none, &mut |_| Ok(()));
    assert_eq!(outcome.unwrap().worst.len(), test.len());

    let small = prune::shrink(&model).unwrap();
    assert!(small.parameter_count() < model.parameter_count());
    let x = fixture::images(5, 1, 12, &Device::Cpu);
    expect_equal(&logits(&small, &x), &logits(&model, &x));

    // What was saved is what was there, as it was built, pruned and shrunk.
    for (name, model) in [("whole", &model), ("small", &small), ("fresh", &own_network().unwrap())]
    {
        let file = folder.path().join(format!("{name}.safetensors"));
        io::save_model(&file, model).unwrap();
        let loaded = io::load_model(&file, &Hints::default(), &Device::Cpu).unwrap();
        assert_eq!((loaded.arch(), loaded.graph()), (model.arch(), model.graph()));
        assert_eq!(logits(&loaded, &x), logits(model, &x));

        let file = folder.path().join(format!("{name}.onnx"));
        io::save_onnx(&file, model, false).unwrap();
        let imported = io::load_onnx(&file, &ImportSettings::default(), &Device::Cpu).unwrap();
        expect_equal(&logits(&imported, &x), &logits(model, &x));
    }

    // The command line reads the file; `bench` compares every execution with float64, and a recipe goes on training.
    let recipe = format!(
        "schema = 1\nname = \"further\"\ndata = {{ set = \"{DATA}\" }}\n\
         model = {{ arch = \"own\", init = \"whole.safetensors\" }}\n\
         train = {{ epochs = 1, batch_size = 64 }}\n"
    );
    std::fs::write(folder.path().join("further.toml"), recipe).unwrap();
    for line in [
        format!("eval whole.safetensors --data {DATA}"),
        "inspect small.safetensors".to_owned(),
        "shrink whole.safetensors -o smaller.safetensors".to_owned(),
        "bench whole.safetensors --batch 1 --seconds 0".to_owned(),
        "train further.toml --out run".to_owned(),
        format!("eval run/checkpoints/last.safetensors --data {DATA}"),
    ] {
        let mut program = fixture::program(folder.path());
        let output = program.args(line.split_whitespace()).args(["--device", "cpu"]).output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {error}");
    }
}

#[test]
fn a_name_of_the_registry_does_not_hide_an_own_graph() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.safetensors");
    // Smaller than the registry's network of that name can be.
    let arch = Arch::custom("vgg16", 3, 2, 8);
    let mut net = Builder::new(&arch, 1.0);
    let x = net.global_avg_pool(net.last());
    net.linear(x, "fc", 2, true);
    let model = Model::initialised(arch, net.finish(), Seed(1), &Device::Cpu).unwrap();
    io::save_model(&file, &model).unwrap();
    let loaded = io::load_model(&file, &Hints::default(), &Device::Cpu).unwrap();
    assert_eq!(loaded.graph(), model.graph());
}

#[test]
fn what_does_not_fit_is_an_error_that_names_it() {
    type Write = fn(&mut Builder);
    let halves = Window::HALVES;
    assert_eq!(halves, Window { size: 2, stride: 2, padding: 0 });
    let cases: [(&str, Write); 8] = [
        ("linear (fc.weight)", |net| {
            net.linear(net.last(), "fc", 4, true);
        }),
        ("graph[1] relu", |net| {
            net.relu(7);
        }),
        ("3×3, stride 1, padding 2", |net| {
            net.max_pool(net.last(), Window { size: 3, stride: 1, padding: 2 });
        }),
        ("conv2d (big.weight)", |net| {
            let x = net.conv(net.last(), "big", 1, 13, 0, true);
            net.flatten(x);
        }),
        ("= [3]: must be [4], a logit for each of the classes", |net| {
            let x = net.global_avg_pool(net.last());
            net.linear(x, "fc", 3, true);
        }),
        ("c.weight", |net| {
            let x = net.conv(net.last(), "c", 1, 3, 1, false);
            let x = net.conv(x, "c", 1, 3, 1, false);
            let x = net.global_avg_pool(x);
            net.linear(x, "fc", 4, true);
        }),
        ("conv2d (wide.weight)", |net| {
            let x = net.conv(net.last(), "wide", usize::MAX, 1, 1, false);
            let x = net.flatten(x);
            net.linear(x, "fc", 4, true);
        }),
        ("a vector of logits", |_| {}),
    ];
    for (word, write) in cases {
        let arch = Arch::custom("own", 1, 4, 12);
        let mut net = Builder::new(&arch, 1.0);
        write(&mut net);
        let refused = Model::initialised(arch, net.finish(), Seed(1), &Device::Cpu);
        let message = refused.unwrap_err().to_string();
        let debug = ["Some(", "None", " { "].iter().any(|part| message.contains(part));
        assert!(message.contains(word) && !debug, "{word}: {message}");
    }
    for arch in [Arch::custom("a:b", 1, 4, 12), Arch::custom("own", 0, 4, usize::MAX)] {
        let net = Builder::new(&arch, 1.0).finish();
        assert!(Model::initialised(arch, net, Seed(1), &Device::Cpu).is_err());
    }
    assert!(!models::is_known("own"));
}
