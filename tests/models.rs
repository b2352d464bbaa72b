//! The registry of models: names, counts, initial values.

use rewire::attack::Network;
use rewire::models::{self, MODELS};
use rewire::nn::{Arch, ArchSpec, Layer, Weights};
use rewire::{DType, Device, Mode, Seed, Tensor};

fn arch(text: &str) -> Arch {
    ArchSpec::parse(text).unwrap().resolve()
}

/// A row of the published table of counts.
struct Counts {
    arch: &'static str,
    conv_weights: usize,
    conv_bias: usize,
    batch_norm: usize,
    linear: usize,
    total: usize,
    conv_macs: usize,
    macs: usize,
    input_channels: usize,
}

#[test]
fn counts_are_those_of_the_papers() {
    let row = |arch, c: [usize; 8]| Counts {
        arch,
        conv_weights: c[0],
        conv_bias: c[1],
        batch_norm: c[2],
        linear: c[3],
        total: c[4],
        conv_macs: c[5],
        macs: c[6],
        input_channels: c[7],
    };
    for want in [
        row("vgg16", [14710464, 4224, 8448, 5130, 14728266, 313196544, 313201664, 3715]),
        row(
            "vgg16:classes=100",
            [14710464, 4224, 8448, 51300, 14774436, 313196544, 313247744, 3715],
        ),
        row(
            "vgg16:classes=200,size=64",
            [14710464, 4224, 8448, 102600, 14825736, 1252786176, 1252888576, 3715],
        ),
        row("resnet18", [11159232, 0, 9600, 5130, 11173962, 555417600, 555422720, 3843]),
        row(
            "resnet18:classes=100",
            [11159232, 0, 9600, 51300, 11220132, 555417600, 555468800, 3843],
        ),
        row("resnet50", [23447232, 0, 53120, 20490, 23520842, 1297809408, 1297829888, 22531]),
    ] {
        let arch = arch(want.arch);
        let blueprint = models::blueprint(&arch).unwrap();
        let layers = blueprint.layers(&arch).unwrap();
        let convs: Vec<&Layer> = layers.iter().filter(|layer| layer.is_conv()).collect();
        let linear: usize =
            layers.iter().filter(|l| !l.is_conv()).map(|l| l.weights() + l.bias).sum();
        let conv_weights: usize = convs.iter().map(|l| l.weights()).sum();
        let conv_bias: usize = convs.iter().map(|l| l.bias).sum();
        let total = blueprint.parameter_count();
        assert_eq!(conv_weights, want.conv_weights, "{}", want.arch);
        assert_eq!(conv_bias, want.conv_bias, "{}", want.arch);
        assert_eq!(linear, want.linear, "{}", want.arch);
        assert_eq!(total, want.total, "{}", want.arch);
        assert_eq!(total - conv_weights - conv_bias - linear, want.batch_norm, "{}", want.arch);
        assert_eq!(convs.iter().map(|l| l.macs()).sum::<usize>(), want.conv_macs, "{}", want.arch);
        assert_eq!(layers.iter().map(Layer::macs).sum::<usize>(), want.macs, "{}", want.arch);
        let channels: usize = convs.iter().map(|l| l.shape[1]).sum();
        assert_eq!(channels, want.input_channels, "{}", want.arch);
    }
}

#[test]
fn vgg16_layers_are_those_of_the_paper() {
    let arch = arch("vgg16");
    let layers = models::blueprint(&arch).unwrap().layers(&arch).unwrap();
    let names: Vec<&str> = layers.iter().map(|l| l.name.as_str()).collect();
    let positions = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40];
    let mut want: Vec<String> = positions.map(|p| format!("features.{p}")).to_vec();
    want.push("classifier".to_owned());
    assert_eq!(names, want);
    let weights: Vec<usize> = layers.iter().map(Layer::weights).collect();
    assert_eq!(weights[..4], [1728, 36864, 73728, 147456]);
    assert_eq!(layers[1].macs(), 37_748_736);
    assert_eq!(layers[12].macs(), 9_437_184);
}

#[test]
fn resnet_names_are_torchvisions() {
    for (name, convs, some) in [
        ("resnet18", 20, ["conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.conv2.weight"]),
        ("resnet50", 53, ["conv1.weight", "layer1.0.downsample.0.weight", "layer4.2.conv3.weight"]),
    ] {
        let model =
            models::initialised(arch(&format!("{name}:width=0.0625")), Seed(1), &Device::Cpu);
        let model = model.unwrap();
        assert_eq!(model.prunable().len(), convs);
        let state = model.state_dict();
        for key in some {
            assert!(model.prunable().contains(&key.to_owned()) && state.contains_key(key));
        }
        for key in ["bn1.running_var", "layer3.0.downsample.1.bias", "fc.weight", "fc.bias"] {
            assert!(state.contains_key(key), "{key}");
        }
        assert!(!state.contains_key("layer1.1.downsample.0.weight"));
    }
}

#[test]
fn initial_values_are_those_of_the_specification() {
    let model = models::initialised(arch("vgg16:width=0.25"), Seed(7), &Device::Cpu).unwrap();
    let values = |name: &str| model.state_dict()[name].to_vec::<f32>().unwrap();
    // features.3: 16 filters of 3×3×16, so the bound is 0.5·√(6 / (32·9)).
    let bound = 0.5 * (6.0f64 / 288.0).sqrt();
    let filter = values("features.3.weight");
    let rms = (filter.iter().map(|w| f64::from(w * w)).sum::<f64>() / filter.len() as f64).sqrt();
    assert!(filter.iter().all(|w| f64::from(w.abs()) <= bound));
    assert!((rms / (bound / 3f64.sqrt()) - 1.0).abs() < 0.05, "{rms}");
    assert!(values("features.4.weight").iter().all(|&gamma| gamma == 0.5));
    assert!(values("features.3.bias").iter().all(|&b| b == 0.0));
    assert!(values("features.4.running_var").iter().all(|&v| v == 1.0));
    let linear = values("classifier.weight");
    let std = (linear.iter().map(|w| f64::from(w * w)).sum::<f64>() / linear.len() as f64).sqrt();
    assert!((std / 0.01 - 1.0).abs() < 0.1, "{std}");
    let resnet = models::initialised(arch("resnet18:width=0.0625"), Seed(7), &Device::Cpu).unwrap();
    assert!(resnet.param("bn1.weight").unwrap().to_vec::<f32>().unwrap().iter().all(|&g| g == 1.0));
}

#[test]
fn the_same_seed_gives_the_same_values_and_another_seed_others() {
    let draw = |seed| {
        let model = models::initialised(arch("resnet18:width=0.0625"), Seed(seed), &Device::Cpu);
        model.unwrap().param("layer1.0.conv1.weight").unwrap().to_vec::<f32>().unwrap()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn what_an_architecture_cannot_be_is_refused_by_name() {
    for (text, word) in
        [("vgg17", "vgg16"), ("vgg16:size=16", "arch.size"), ("vgg16:width=16", "arch.width")]
    {
        let message = models::blueprint(&arch(text)).unwrap_err().to_string();
        assert!(message.contains(word), "{text}: {message}");
    }
    assert!(MODELS.iter().all(|model| models::blueprint(&arch(model.name)).is_ok()));
}

/// The table of `docs/models.md`.
fn table() -> String {
    let mut text = String::from(
        "| name | what | source | convolutions | parameters | MACs an image | names of tensors |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for model in MODELS {
        let arch = arch(model.name);
        let blueprint = models::blueprint(&arch).unwrap();
        let layers = blueprint.layers(&arch).unwrap();
        let convs: Vec<&Layer> = layers.iter().filter(|layer| layer.is_conv()).collect();
        text += &format!(
            "| `{}` | {} | {} | {} | {} | {} | `{}` … `{}`, `{}` |\n",
            model.name,
            model.summary,
            model.source,
            convs.len(),
            grouped(blueprint.parameter_count()),
            grouped(layers.iter().map(Layer::macs).sum()),
            convs[0].name,
            convs[convs.len() - 1].name,
            layers[layers.len() - 1].name,
        );
    }
    text
}

/// `14728266` as `14,728,266`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap()).collect();
    groups.join(",")
}

#[test]
fn the_table_of_models_is_that_of_the_registry() {
    let page = include_str!("../docs/models.md");
    assert!(page.contains(&table()), "docs/models.md must hold:\n{}", table());
}

/// Rounded once for all passes, or in each: the same gradient of the pixels.
#[test]
fn operands_have_the_bits_of_the_weights() {
    for device in crate::ops::devices() {
        let arch = arch("resnet18:width=0.125,in_channels=1");
        let model = models::initialised(arch, Seed(3), &device).unwrap();
        let stream = Seed(4).stream("pixels", 0, 0);
        let pixels = (0..2 * 32 * 32).map(|i| stream.uniform(i)).collect();
        let x = Tensor::from_vec::<f32>(pixels, &[2, 32, 32, 1], &device).unwrap();
        let labels = Tensor::from_vec(vec![3, 7], &[2], &device).unwrap();
        for mode in Mode::ALL {
            let gradient = |weights: Weights| {
                let network = Network { model: &model, weights: &weights, mode };
                network.input_gradient(&x, &labels).unwrap().to_vec::<f32>().unwrap()
            };
            let weights = Weights::default().with_operands(&model, mode).unwrap();
            let rounded = weights.substitutes.values().any(|w| w.dtype() == DType::Bf16);
            assert_eq!(rounded, mode == Mode::Bf16 && matches!(device, Device::Gpu(_)));
            let (got, want) = (gradient(weights), gradient(Weights::default()));
            assert!(want.iter().any(|g| *g != 0.0));
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert!(bits(got) == bits(want), "{mode} on {device}");
        }
    }
}
