//! The counter formula of `fixtures/make_models.py`: weights, images and labels that both sides compute. And the program, a
//! process and a seed for tests that must not depend on what ran before.

use rewire::data::{Pixels, Split};
use rewire::io::{Hints, load_model};
use rewire::nn::{Arch, ArchSpec, Model};
use rewire::tensor::nchw_to_nhwc;
use rewire::{Device, Seed, Tensor, models};
use serde_json::Value;
use std::env;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

/// `fixtures/models.json`.
pub fn stored() -> Value {
    serde_json::from_str(include_str!("fixtures/models.json")).unwrap()
}

/// An array of numbers.
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Number `index` of the stream `name`: [-1, 1) in steps of 2⁻²³.
pub fn uniform(name: &str) -> impl Fn(usize) -> f64 {
    let key = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |key, byte| {
        (key ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    move |index| {
        let mut z = key.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f64 * 2f64.powi(-23) - 1.0
    }
}

/// The values of a parameter whose shape, as the crate stores it, is `shape`; in that order.
pub fn parameter(name: &str, shape: &[usize]) -> Vec<f32> {
    let (u, len) = (uniform(name), shape.iter().product());
    let vector = |f: fn(f64) -> f64| (0..len).map(|i| f(u(i)) as f32).collect();
    if name.ends_with("running_var") {
        return vector(|u| 1.0 + 0.5 * u);
    }
    if name.ends_with("running_mean") || name.ends_with("bias") {
        return vector(|u| 0.1 * u);
    }
    match *shape {
        [_, f] => (0..len).map(|i| (u(i) * (3.0 / f as f64).sqrt()) as f32).collect(),
        [k, r, s, c] => {
            let scale = (6.0 / (r * s * c) as f64).sqrt();
            let oihw: Vec<f32> = (0..len).map(|i| (u(i) * scale) as f32).collect();
            nchw_to_nhwc(&oihw, [k, c, r, s])
        }
        _ => vector(|u| 1.0 + 0.25 * u),
    }
}

/// The network of the formula.
pub fn network(arch: Arch, device: &Device) -> Model {
    let blueprint = models::blueprint(&arch).unwrap();
    let tensors = blueprint.parameters.iter().map(|p| {
        let values = parameter(&p.name, &p.shape);
        (p.name.clone(), Tensor::from_vec(values, &p.shape, device).unwrap())
    });
    Model::new(arch, blueprint.graph.clone(), tensors.collect(), device).unwrap()
}

/// [`network`] of an architecture by name.
pub fn network_of(text: &str, device: &Device) -> Model {
    network(ArchSpec::parse(text).unwrap().resolve(), device)
}

/// The first images of the formula, `[count, size, size, channels]`.
pub fn images(count: usize, channels: usize, size: usize, device: &Device) -> Tensor {
    let u = uniform("images");
    let nchw: Vec<f32> =
        (0..count * channels * size * size).map(|i| (0.5 + 0.5 * u(i)) as f32).collect();
    let nhwc = nchw_to_nhwc(&nchw, [count, channels, size, size]);
    Tensor::from_vec(nhwc, &[count, size, size, channels], device).unwrap()
}

/// The first labels of the formula.
pub fn labels(count: usize, classes: usize) -> Vec<i32> {
    let u = uniform("labels");
    (0..count).map(|i| ((u(i) + 1.0) * 0.5 * classes as f64) as i32).collect()
}

/// A network of `fixtures/make_attack_net.py`, `attack_net` or `attack_net_adversarial`.
pub fn attack_net(name: &str, device: &Device) -> Model {
    let path = format!("{}/tests/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    load_model(path.as_ref(), &Hints::default(), device).unwrap()
}

/// The first of its 64 test images, 1×14×14.
pub fn attack_images(count: usize) -> Split {
    let read = |bytes: &[u8], skip: usize| bytes[bytes.len() - skip..].to_vec();
    let pixels = read(include_bytes!("fixtures/attack_images.npy"), 64 * 196);
    let labels = read(include_bytes!("fixtures/attack_labels.npy"), 64);
    let mut split = Split {
        shape: [64, 1, 14, 14],
        pixels: Pixels::U8(pixels),
        labels: Some(labels.into_iter().map(i32::from).collect()),
        source: "attack_images.npy".into(),
    };
    split.truncate(count);
    split
}

/// ‖got − want‖ / ‖want‖.
pub fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
    let norm: f64 = want.iter().map(|w| w * w).sum();
    (error / norm).sqrt()
}

/// Numbers that differ from run to run, but not in CI; see [`crate::seed`].
pub fn fresh_seed() -> Seed {
    Seed(crate::seed::fresh_seed())
}

/// The program in `folder`, where its cache is too: what was measured before must not decide a test.
pub fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewire"));
    command.current_dir(folder).env("REWIRE_CACHE", folder.join("cache"));
    command
}

/// What the program prints for `args` on the CPU, in `folder`.
pub fn rewire(folder: &Path, args: &[&str]) -> Output {
    program(folder).args(args).args(["--device", "cpu"]).output().unwrap()
}

/// The standard output of a command that does its work.
pub fn done(folder: &Path, args: &[&str]) -> String {
    let output = rewire(folder, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a command that is refused: status 2, nothing on standard output, one line `error: …`.
pub fn refused(folder: &Path, args: &[&str]) -> String {
    let output = rewire(folder, args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert!(error.starts_with("error: ") && error.trim_end().lines().count() == 1, "{error}");
    error
}

/// Runs `body`, which the test `name` is, in a process of its own with an empty cache: where the cache is the environment says,
/// and that is one for all tests of a process.
pub fn with_own_cache(name: &str, body: impl FnOnce()) {
    const INSIDE: &str = "REWIRE_TEST_INSIDE";
    if env::var(INSIDE).is_ok_and(|inside| inside == name) {
        return body();
    }
    let cache = tempfile::tempdir().unwrap();
    let mut test = Command::new(env::current_exe().unwrap());
    test.args(["--exact", name]).env(INSIDE, name).env("REWIRE_CACHE", cache.path());
    let output = test.output().unwrap();
    let [text, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    let passed = output.status.success() && text.contains("test result: ok. 1 passed");
    assert!(passed, "{name} in a process of its own:\n{text}{error}");
}

/// For a test whose prerequisite is not there: an error in CI (where `CI` is set, as in `.ci/run`), elsewhere a line that is
/// seen although the test passes.
pub fn skipped(why: &str) {
    assert!(env::var_os("CI").is_none(), "in CI this must not be skipped: {why}");
    std::io::stderr().write_all(format!("skipped: {why}\n").as_bytes()).unwrap();
}
