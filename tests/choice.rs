//! What a plan chooses by measuring: the algorithm of each layer, and the number of threads.

use crate::fixture;
use rewire::infer::{Algorithm, Choice, Plan};
use rewire::io::save_model;
use rewire::nn::Model;
use rewire::prune::{Granularity, PruneSettings, Pruner};
use rewire::{Device, Mode, Seed};
use std::path::Path;

fn pruned(density: f64) -> Model {
    let mut model = fixture::network_of("vgg16:width=0.0625", &Device::Cpu);
    let (method, keys) = ("magnitude".to_owned(), toml::Table::new());
    let granularity = Granularity::Irregular;
    let settings = PruneSettings { method, granularity, density, keys };
    Pruner::new(&settings, &model, Seed(1)).unwrap().apply(&mut model).unwrap();
    model
}

fn build(model: &Model, threads: usize, choice: Choice) -> Plan {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| Plan::build(model, 1, Mode::F32, choice)).unwrap()
}

/// Kept shares of a layer say little about its fastest algorithm where channels are few: with 70 % kept everything is tried.
#[test]
fn every_convolution_of_a_pruned_network_is_measured_both_ways() {
    fixture::with_own_cache(
        "choice::every_convolution_of_a_pruned_network_is_measured_both_ways",
        || {
            let plan = build(&pruned(0.7), 1, Choice::Measured);
            assert!(plan.build_times().measure_ms > 0.0);
            for layer in plan.layers() {
                assert!(layer.dense_ms.is_some() && layer.sparse_ms.is_some(), "{layer:?}");
            }
        },
    );
}

#[test]
fn the_number_of_threads_is_measured_once_for_each_number_that_there_are() {
    fixture::with_own_cache(
        "choice::the_number_of_threads_is_measured_once_for_each_number_that_there_are",
        || {
            let model = pruned(0.1);
            for choice in [Choice::Measured, Choice::Forced(Algorithm::Sparse)] {
                let first = build(&model, 3, choice);
                // Of one layer of a few microseconds nobody needs more threads than there are.
                assert!(matches!(first.threads(), Some(1 | 3)), "{:?}", first.threads());
                assert!(first.build_times().measure_ms > 0.0);
                let again = build(&model, 3, choice);
                assert_eq!(again.build_times().measure_ms, 0.0);
                assert_eq!(again.threads(), first.threads());
                // For another number only the threads are measured: the algorithms are those that are remembered.
                let other = build(&model, 2, choice);
                assert!(other.build_times().measure_ms > 0.0 && other.threads() <= Some(2));
                assert!(other.layers().iter().all(|layer| layer.dense_ms.is_none()));
                let algorithms = |plan: &Plan| -> Vec<Algorithm> {
                    plan.layers().iter().map(|layer| layer.algorithm).collect()
                };
                assert_eq!(algorithms(&other), algorithms(&first));
                assert_eq!(build(&model, 2, choice).build_times().measure_ms, 0.0);
            }
            assert_eq!(build(&model, 1, Choice::Measured).threads(), Some(1));
            let anew = build(&model, 3, Choice::Remeasured);
            assert!(anew.build_times().measure_ms > 0.0);
            assert!(anew.layers()[0].dense_ms.is_some());
            assert_eq!(build(&model, 3, Choice::Measured).build_times().measure_ms, 0.0);
        },
    );
}

/// The result of `rewire bench` at batch 1 with a cache of its own, as text and as JSON.
fn bench(folder: &Path, args: &[&str]) -> (String, serde_json::Value) {
    let run = |json: &[&str]| {
        let mut command = fixture::program(folder);
        command.args(["bench", "p.safetensors", "--device", "cpu", "--batch", "1"]);
        command.args(["--seconds", "0.5"]).args(args).args(json);
        command.env_remove("REWIRE_CACHE").env("XDG_CACHE_HOME", folder);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = serde_json::from_str(&run(&["--json"])).unwrap();
    (run(&[]), json)
}

#[test]
fn a_remembered_plan_that_is_beaten_is_measured_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save_model(&folder.join("p.safetensors"), &pruned(0.05)).unwrap();
    bench(folder, &[]);
    // Whatever was measured: the other algorithm everywhere, of which one is slower.
    for to in ["dense", "lists"] {
        for entry in std::fs::read_dir(folder.join("rewire/plans")).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let (start, end) = (text.find('[').unwrap(), text.find(']').unwrap());
            let ways = text[start..end].replace("dense", to).replace("lists", to);
            let text = format!("{}{ways}{}", &text[..start], &text[end..]);
            std::fs::write(path, text).unwrap();
        }
        let (_, json) = bench(folder, &[]);
        let singles = json["rows"].as_array().unwrap().iter();
        let singles = singles.filter(|row| row["execution"] != "masked");
        let best = singles.map(|row| row["median_ms"].as_f64().unwrap()).fold(f64::MAX, f64::min);
        let plan = &json["plans"][0];
        let measured = plan["build"]["measure_ms"].as_f64().unwrap() > 0.0;
        assert!(measured || plan["median_ms"].as_f64().unwrap() <= 1.1 * best, "{json:#}");
    }
    let (_, json) = bench(folder, &["--measure"]);
    assert!(json["plans"][0]["build"]["measure_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn bench_says_threads_layers_and_which_weights_it_counts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = pruned(0.25);
    save_model(&folder.join("p.safetensors"), &model).unwrap();
    let (text, json) = bench(folder, &["--measure"]);
    for row in json["rows"].as_array().unwrap().iter().chain(json["plans"].as_array().unwrap()) {
        assert!(row["threads"].as_u64().unwrap() >= 1, "{row}");
    }
    let (mut nonzero, mut prunable) = (0, 0);
    for name in model.prunable() {
        let weights = model.param(&name).unwrap().to_vec::<f32>().unwrap();
        nonzero += weights.iter().filter(|&&weight| weight != 0.0).count();
        prunable += weights.len();
    }
    let share = nonzero as f64 / prunable as f64;
    assert_eq!(json["nonzero_share"].as_f64(), Some(share));
    assert_eq!(json["density"].as_f64(), Some(share));
    let counted =
        format!("nonzero share {share:.4}: {nonzero} of {prunable} convolution weights are not 0");
    let words = [&counted[..], "layers of fastest at batch 1", "  dense ", "compact  dense, on"];
    for words in words {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Every layer is named, alone or between two neighbours that are alike.
    let (_, layers) = text.split_once("layers of fastest").unwrap();
    assert!(layers.contains("features.0") && layers.contains("classifier"), "{layers}");
    assert!(layers.contains("measured ms an image: "), "{layers}");
    let inspect = |json: &[&str]| {
        let output =
            fixture::program(folder).args(["inspect", "p.safetensors"]).args(json).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let counted = format!("nonzero share of the convolutions: {share:.4}");
    assert!(inspect(&[]).contains(&counted) && inspect(&[]).contains("nonzero weights"));
    let json: serde_json::Value = serde_json::from_str(&inspect(&["--json"])).unwrap();
    assert_eq!(json["nonzero_share"].as_f64(), Some(share));
    assert_eq!(json["prunable"]["weights_kept"], nonzero);
}
