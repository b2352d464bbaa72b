//! Every entry point in `kernels/` is launched by a command: a kernel that nobody can reach is not the product.

use crate::fixture;
use rewire::io::save_model;
use std::collections::BTreeSet;
use std::path::Path;

/// Runs the program on `cuda-host`, in `folder`, logging its launches there; fails unless it ends with status 0.
fn rewire(folder: &Path, arguments: &[&str]) {
    // With a cache of its own: a choice that is remembered is not measured, and measuring launches what is not chosen.
    let output = fixture::program(folder)
        .args(arguments)
        .args(["--device", "cuda-host"])
        .env("REWIRE_LAUNCH_LOG", folder.join("launches"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "rewire {}: {stderr}", arguments.join(" "));
}

/// A recipe whose run is a few steps on tiny images.
const RECIPE: &str = r#"
schema = 1
name = "tiny"
[data]
set = "synthetic:classes=10,size=32,channels=3,train=6,test=2"
[model]
arch = "vgg16:width=0.0625"
normalize = "cifar10"
[train]
epochs = 2
batch_size = 3
adversary = { attack = "pgd", eps = "8/255", steps = 1 }
"#;

const DNR: &str = r#"
[prune]
method = "dnr"
density = 0.3
rho = 1e-4
"#;

#[test]
fn commands_launch_every_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let recipe = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    recipe("dnr.toml", &format!("{RECIPE}{DNR}"));
    recipe("dense.toml", RECIPE);

    let dnr = ["train", "dnr.toml", "--out", "irregular"];
    rewire(dir, &dnr);
    rewire(
        dir,
        &["train", "dnr.toml", "--out", "channel", "--set", "prune.granularity=\"channel\""],
    );
    let adam = ["--set", "train.optimizer={ kind = \"adam\", lr = 1e-3 }"];
    let residual = ["--arch", "resnet18:width=0.0625", "--set", "train.epochs=1"];
    let noise = ["--set", "train.weight_noise=0.1"];
    let tf32 = ["--mode", "tf32"];
    // In training: an evaluation leaves out the images that are wrong already.
    let l2 = ["--set", "train.adversary.attack=\"pgd-l2\""];
    let train = ["train", "dense.toml", "--out", "adam"];
    rewire(dir, &[&train[..], &adam, &residual, &noise, &tf32, &l2].concat());
    let bf16 =
        ["train", "dense.toml", "--out", "noisy", "--mode", "bf16", "--set", "train.epochs=1"];
    rewire(dir, &[&bf16[..], &noise].concat());
    let still = ["--set", "prune={ method = \"static\", density = 0.2 }"];
    let sparse = ["--set", "train.execution=\"sparse\"", "--set", "train.epochs=1"];
    for mode in ["f32", "tf32", "bf16"] {
        let out = ["train", "dense.toml", "--out", mode, "--mode", mode];
        rewire(dir, &[&out[..], &still, &sparse].concat());
    }
    let best = "channel/checkpoints/best.safetensors";
    let data = ["--data", "synthetic:classes=10,size=32,channels=3,train=6,test=2"];
    rewire(
        dir,
        &[&["attack", best, "--attack", "fgsm,pgd", "--steps", "2", "--mode", "bf16"][..], &data]
            .concat(),
    );
    for granularity in ["kernel", "filter"] {
        let output = format!("{granularity}.safetensors");
        let how = ["--granularity", granularity, "--density", "0.5"];
        rewire(dir, &[&["prune", best, "-o", &output][..], &how].concat());
    }
    rewire(dir, &["shrink", best, "-o", "small.safetensors"]);
    rewire(dir, &[&["predict", "small.safetensors", "-o", "logits.npy"][..], &data].concat());
    // A plan that measures every format of sparse layers.
    let irregular = ["predict", "irregular/checkpoints/best.safetensors", "-o", "logits.npy"];
    rewire(dir, &[&irregular[..], &["--mode", "bf16"], &data].concat());
    // A graph in which nothing can be fused.
    save_model(&dir.join("apart.safetensors"), &crate::plan::unusual()).unwrap();
    let images = "synthetic:classes=4,size=14,channels=2,train=1,test=2";
    rewire(
        dir,
        &["predict", "apart.safetensors", "-o", "apart.npy", "--mode", "bf16", "--data", images],
    );
    for mode in ["f32", "tf32", "bf16"] {
        let pgd = ["attack", "small.safetensors", "--attack", "fgsm", "--mode", mode];
        rewire(dir, &[&pgd[..], &data].concat());
        rewire(dir, &["bench", best, "--batch", "1", "--seconds", "0", "--mode", mode]);
        let residual = ["bench", "--arch", "resnet18:width=0.0625", "--density", "0.3"];
        let how = ["--granularity", "channel", "--batch", "1", "--seconds", "0", "--mode", mode];
        rewire(dir, &[&residual[..], &how].concat());
    }

    // Other windows than 2×2, a flattened image; in training with their gradients, and in plans of both storage types.
    for (name, size) in [("residual_script_unfolded", 32), ("plain_bn_script", 16)] {
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/onnx/{name}.onnx"));
        rewire(dir, &["import", source.to_str().unwrap(), "-o", "imported.safetensors"]);
        let data = format!("synthetic:classes=5,size={size},channels=3,train=2,test=2");
        // Not an attack: images that untrained networks have wrong already are left out of it.
        let init = ["--init", "imported.safetensors", "--data", &data, "--set", "train.epochs=1"];
        rewire(dir, &[&["train", "dense.toml", "--out", name][..], &init].concat());
        for mode in ["f32", "bf16"] {
            let predict = ["predict", "imported.safetensors", "-o", "logits.npy", "--mode", mode];
            rewire(dir, &[&predict[..], &["--data", &data]].concat());
        }
    }

    // Full masks; layers wide enough for the largest tiles, and too wide for the smallest.
    let wide = ["bench", "--arch", "resnet18:width=0.25,size=16", "--batch", "2", "--seconds", "0"];
    for mode in ["f32", "tf32", "bf16"] {
        rewire(dir, &[&wide[..], &["--mode", mode]].concat());
    }

    let log = std::fs::read_to_string(dir.join("launches")).unwrap();
    let launched: BTreeSet<&str> = log.lines().collect();
    let all: BTreeSet<&str> = rewire::device::entry_points().iter().copied().collect();
    let never: Vec<_> = all.difference(&launched).collect();
    assert!(never.is_empty(), "entry points that no command launches: {never:?}");
}
