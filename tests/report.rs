//! Reports of made-up runs and results: what they say, and that no input hurts them.

use rewire::Device;
use rewire::io::save_model;
use rewire::report::{Rendered, Report, render};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A made-up run.
struct Made {
    name: &'static str,
    recipe: &'static str,
    arch: &'static str,
    /// Kept of 1,000 weights.
    active: usize,
    /// Percent: clean, FGSM, PGD.
    accuracy: [f64; 3],
    pgd_steps: usize,
    /// Times by execution and batch size.
    ms: Vec<(&'static str, usize, f64)>,
    threads: usize,
}

const PRUNED: &str = "schema = 1\nname = 'p'\nseed = 1\n[train]\nepochs = 3\n[prune]\nmethod = 'dnr'\ngranularity = 'irregular'\ndensity = 0.1\n";
const DENSE: &str = "schema = 1\nname = 'd'\nseed = 1\n[train]\nepochs = 3\n";

fn dense() -> Made {
    Made {
        name: "dense",
        recipe: DENSE,
        arch: "vgg16",
        active: 1000,
        accuracy: [84.1, 50.0, 41.0],
        pgd_steps: 7,
        ms: vec![("dense", 1, 1.19), ("sparse", 1, 2.0), ("dense", 32, 12.2), ("sparse", 32, 30.0)],
        threads: 2,
    }
}

fn pruned() -> Made {
    Made {
        name: "pruned",
        recipe: PRUNED,
        active: 100,
        accuracy: [80.9, 50.0, 38.3],
        ms: vec![("dense", 1, 1.2), ("sparse", 1, 1.0), ("dense", 32, 12.0), ("sparse", 32, 10.0)],
        ..dense()
    }
}

fn bench(made: &Made) -> Value {
    let row = |&(execution, batch, ms): &(&str, usize, f64)| {
        json!({"execution": execution, "batch": batch, "median_ms": ms, "images_per_second": 1e3 * batch as f64 / ms,
            "speedup_vs_dense": 1.0, "nonzero": made.active, "macs": 5000, "build_ms": 0.5, "max_relative_error": 1e-7})
    };
    json!({"arch": made.arch, "device": "cpu", "cpu": "Made-up CPU", "mode": "f32", "threads": made.threads,
        "density": made.active as f64 / 1e3, "rows": made.ms.iter().map(row).collect::<Vec<_>>(), "plans": [],
        "figures": [{"batch": 1, "projected": 1.0, "mac_ratio": 2.0, "measured_compact": 1.0, "measured_sparse": 1.2}]})
}

impl Made {
    /// Writes the run's folder.
    fn write(&self, folder: &Path) -> PathBuf {
        let dir = folder.join(self.name);
        fs::create_dir_all(dir.join("checkpoints")).unwrap();
        let write = |name: &str, text: String| fs::write(dir.join(name), text).unwrap();
        let [clean, fgsm, pgd] = self.accuracy;
        let layer = |name: &str, weights: usize, active: usize, macs: u64, left: u64| {
            json!({"name": name, "shape": [weights, 1, 1, 1], "weights": weights, "active": active, "channels": 1,
                "channels_active": 1, "macs": macs, "macs_active": left})
        };
        let attack = |name: &str, steps: usize, accuracy: f64| json!({"attack": name, "eps": 8.0 / 255.0, "steps": steps, "restarts": 1, "accuracy": accuracy});
        let result = json!({"name": self.name, "arch": self.arch, "data": "made-up", "device": "cpu", "mode": "f32",
            "seed": 1, "epochs": 3, "epoch": 2, "accuracy": {"clean": clean, "fgsm": fgsm, "pgd": pgd},
            "evaluations": [attack("fgsm", 1, fgsm), attack("pgd", self.pgd_steps, pgd)], "prunable": 1000,
            "active": self.active, "nonzero": self.active, "density": self.active as f64 / 1e3, "seconds": 2.0,
            "layers": [layer("conv.weight", 1000, self.active, 4_000_000, self.active as u64 * 4000),
                layer("fc.weight", 10, 10, 10, 10)]});
        write("recipe.toml", self.recipe.to_owned());
        write("result.json", result.to_string());
        write("bench.json", bench(self).to_string());
        write("epochs.csv", "epoch,train_loss,test_accuracy,pgd_accuracy,validation_accuracy\n1,2,50,,60\n2,1.5,70,30,61\n3,1,80,40,62\n".into());
        write("steps.csv", "step,epoch,lr,loss\n1,1,0.1,2.5\n2,2,0.1,2\n".into());
        fs::write(dir.join("checkpoints/best.safetensors"), vec![0; 5_000_000]).unwrap();
        dir
    }
}

/// A made-up result of `rewire attack --sweep eps=…` with one attack or two.
fn sweep(folder: &Path, file: &str, model: &str, images: usize, attacks: &[&str]) -> PathBuf {
    let mut rows = Vec::new();
    for eps in ["1/255", "4/255"] {
        for attack in attacks {
            rows.push(json!({"attack": attack, "eps": eps, "steps": 5, "random_start": true, "restarts": 1,
                "norm": "L∞", "accuracy": 50.0}));
        }
    }
    let result = json!({"model": model, "data": "made-up", "images": images, "seed": 1, "mode": "f32", "batch_size": 10,
        "clean": 90.0, "attacks": rows, "worst": 40.0, "warnings": ["a made-up warning"],
        "sweep": {"key": "eps", "values": ["1/255", "4/255"], "worst": [60.0, 40.0]}});
    let path = folder.join(file);
    fs::write(&path, result.to_string()).unwrap();
    path
}

fn report(paths: &[PathBuf]) -> Rendered {
    render(&Report::read(paths).unwrap()).unwrap()
}

/// The data of the page.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("<script id=data type=\"application/json\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[track_caller]
fn chart<'a>(data: &'a Value, title: &str) -> &'a Value {
    let charts = data["charts"].as_array().unwrap();
    charts
        .iter()
        .find(|chart| chart["title"] == title)
        .unwrap_or_else(|| panic!("no chart {title}"))
}

#[test]
fn sentences_say_what_pruning_cost_and_won() {
    let folder = tempfile::tempdir().unwrap();
    let dirs = [dense().write(folder.path()), pruned().write(folder.path())];
    let text = report(&dirs).markdown;
    let answer = "**pruned**: Pruning to 10.0 % of the weights (irregular) cost 3.2 points of clean accuracy (84.1 to 80.9 %) \
        and 2.7 points under PGD (eps 8/255, 7 steps; 41.0 to 38.3 %) and left accuracy under FGSM (eps 8/255) at 50.0 %, \
        and made the network 1.19 times faster at batch 1 and 1.22 times faster at batch 32 than dense (the fastest \
        execution of each: sparse against dense; measured on Made-up CPU, 2 threads, f32). The prunable weights that are kept \
        take 0.00 MB of 0.00 MB as 32-bit numbers; the checkpoint file has 5.00 MB, that of dense 5.00 MB. Of 4.00 million \
        multiply-accumulates an image 0.40 million are left (10.00 times fewer).\n";
    assert!(text.contains(answer), "{text}");
    let base = "**dense**: No weight is pruned: 84.1 % clean accuracy, 50.0 % under FGSM (eps 8/255) and 41.0 % under PGD \
        (eps 8/255, 7 steps). The fastest execution takes 1.190 ms at batch 1 (dense) and 12.200 ms at batch 32 (dense), \
        measured on Made-up CPU, 2 threads, f32.\n";
    assert!(text.contains(base), "{text}");
    assert!(text.find("**pruned**") < text.find("**dense**"));
}

#[test]
fn what_is_not_comparable_is_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let text = |one: Made, other: Made| {
        report(&[one.write(folder.path()), other.write(folder.path())]).markdown
    };
    // Another architecture is no baseline at all.
    let other = text(Made { arch: "resnet18", ..dense() }, pruned());
    assert!(!other.contains("cost") && !other.contains("than dense"), "{other}");
    assert!(
        other.contains(
            "**pruned**: 10.0 % of the weights (irregular) are kept: 80.9 % clean accuracy"
        )
    );
    assert!(other.contains(
        "The fastest execution is 1.20 times faster at batch 1 (sparse: 1.000 against 1.200 ms)"
    ));
    // PGD with other steps, and a clock with other threads.
    let other = text(Made { pgd_steps: 20, threads: 1, ..dense() }, pruned());
    assert!(
        other.contains("cost 3.2 points of clean accuracy")
            && other.contains("compared with dense.")
    );
    assert!(
        !other.contains("under PGD (eps 8/255, 7 steps;") && !other.contains("made the network")
    );
    assert!(other.contains("than the dense execution of the same weights"), "{other}");
    // Other images.
    let recipe = "schema = 1\nname = 'd'\n[data]\ntest_limit = 10\n";
    assert!(!text(Made { recipe, ..dense() }, pruned()).contains("cost"));
    // A recipe that differs in more than pruning says so.
    let recipe = "schema = 1\nname = 'd'\nseed = 2\n[train]\nepochs = 3\n";
    let other = text(Made { recipe, ..dense() }, pruned());
    assert!(
        other.contains("Besides pruning, the recipe differs from that of dense in seed."),
        "{other}"
    );
}

#[test]
fn the_same_input_gives_the_same_bytes_and_loads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = vec![dense().write(folder.path()), pruned().write(folder.path())];
    paths.push(sweep(folder.path(), "s.json", "net.safetensors", 50, &["pgd"]));
    let (one, two) = (report(&paths), report(&paths));
    assert!(one.html == two.html && one.markdown == two.markdown && one.csv == two.csv);
    for load in [
        "src=\"http",
        "href=\"http",
        "src=http",
        "href=http",
        "url(",
        "@import",
        "<link",
        "fetch(",
        "XMLHttpRequest",
    ] {
        assert!(!one.html.contains(load), "{load}");
    }
    assert!(one.html.contains("default-src 'none'") && one.html.contains("<svg class=marker"));
    for licence in ["Copyright (c) 2014-2024 Chart.js Contributors", "Jukka Kurkela"] {
        assert!(one.html.contains(licence), "{licence}");
    }
    assert!(!one.html.contains("sourceMappingURL"));
}

#[test]
fn values_that_no_axis_can_show_and_long_curves_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let dir = dense().write(folder.path());
    let mut steps = "step,epoch,lr,loss\n".to_owned();
    for step in 1..=50_000 {
        let loss = match step {
            7 => "1e308",
            8 => "-1e308",
            9 => "NaN",
            10 => "inf",
            40_000 => "77",
            _ => "1.5",
        };
        steps += &format!("{step},1,0.1,{loss}\n");
    }
    fs::write(dir.join("steps.csv"), steps).unwrap();
    let page = report(&[dir]).html;
    let data = data(&page);
    let points = chart(&data, "Training loss of each step")["views"][0]["series"][0]["points"]
        .as_array()
        .unwrap();
    assert!((1000..=2000).contains(&points.len()), "{}", points.len());
    assert!(points.contains(&json!([40_000.0, 77.0])));
    assert!(page.contains("4 values that are not finite or beyond ±1e30 are left out."));
    assert!(page.contains("Of a curve with more than 2,000 points"));
}

#[test]
fn sweeps_of_several_networks_share_a_chart_where_they_are_comparable() {
    let folder = tempfile::tempdir().unwrap();
    let best = pruned().write(folder.path()).join("checkpoints/best.safetensors");
    let paths = [
        folder.path().join("pruned"),
        sweep(folder.path(), "a.json", "nets/a.safetensors", 50, &["pgd", "fgsm"]),
        sweep(folder.path(), "b.json", best.to_str().unwrap(), 50, &["pgd", "fgsm"]),
        sweep(folder.path(), "c.json", "nets/c.safetensors", 99, &["pgd"]),
    ];
    let page = report(&paths).html;
    let data = data(&page);
    let charts = data["charts"].as_array().unwrap();
    let titled =
        |title: &str| charts.iter().filter(|chart| chart["title"] == title).collect::<Vec<_>>();
    // One chart for the two networks that met the same images, one for the network that met others.
    let pgd = titled("Accuracy against eps: pgd");
    let names = |chart: &Value| -> Vec<(String, u64)> {
        let series = chart["views"][0]["series"].as_array().unwrap().iter();
        series
            .map(|one| (one["name"].as_str().unwrap().into(), one["network"].as_u64().unwrap()))
            .collect()
    };
    assert_eq!(pgd.len(), 2);
    assert_eq!(names(pgd[0]), [("a".into(), 1), ("pruned".into(), 0)]);
    assert_eq!(names(pgd[1]), [("c".into(), 2)]);
    assert_eq!(titled("Accuracy against eps: fgsm").len(), 1);
    let worst = &titled("Accuracy against eps: worst case of pgd and fgsm")[0]["views"][0];
    let points = json!([[0.0, 90.0], [1.0 / 255.0, 60.0], [4.0 / 255.0, 40.0]]);
    assert_eq!(worst["series"][0]["points"], points);
    // Ticks at the values that were measured, as k/255.
    let labels: Vec<_> =
        worst["x"]["ticks"].as_array().unwrap().iter().map(|tick| &tick["label"]).collect();
    assert_eq!(labels, ["0", "1/255", "4/255"]);
    // No chart stands under a heading that names one network.
    let (before, after) = page.split_once("Attacks on a, 50 images</summary>").unwrap();
    assert!(before.contains("Accuracy against eps: pgd</h3>"));
    assert!(!after.contains("<h3>Accuracy against eps"));
}

#[test]
fn one_network_has_one_colour_in_every_chart_and_epochs_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let dirs = [dense().write(folder.path()), pruned().write(folder.path())];
    let page = report(&dirs).html;
    let data = data(&page);
    let names: Vec<_> =
        data["networks"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["dense", "pruned"]);
    for chart in data["charts"].as_array().unwrap() {
        for view in chart["views"].as_array().unwrap() {
            for series in view["series"].as_array().unwrap() {
                let network = series["network"].as_u64().unwrap() as usize;
                assert!(
                    series["name"].as_str().unwrap().starts_with(names[network].as_str().unwrap())
                );
            }
        }
    }
    for title in ["Clean test accuracy", "Accuracy under pgd", "Clean validation accuracy"] {
        let view = &chart(&data, title)["views"][0];
        assert_eq!(view["series"].as_array().unwrap().len(), 2, "{title}");
        for tick in view["x"]["ticks"].as_array().unwrap() {
            let value = tick["value"].as_f64().unwrap();
            assert!(
                value == value.trunc() && tick["label"].as_str() == Some(&*value.to_string()),
                "{title}: {tick}"
            );
        }
    }
    // A view for each batch size and each accuracy; a point for each execution.
    let tradeoff = chart(&data, "Accuracy against latency");
    assert_eq!(tradeoff["switches"][0]["options"], json!(["1", "32"]));
    assert_eq!(
        tradeoff["switches"][1]["options"],
        json!(["clean", "FGSM (eps 8/255)", "PGD (eps 8/255, 7 steps)"])
    );
    assert_eq!(tradeoff["views"].as_array().unwrap().len(), 6);
    let pgd_at_32 = tradeoff["views"][5]["series"].as_array().unwrap();
    let sparse = pgd_at_32.iter().find(|one| one["name"] == "pruned, sparse").unwrap();
    assert_eq!(sparse["points"], json!([[10.0, 38.3]]));
}

#[test]
fn names_cannot_leave_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let dir = dense().write(folder.path());
    let text = fs::read_to_string(dir.join("result.json")).unwrap();
    let mut result: Value = serde_json::from_str(&text).unwrap();
    result["name"] = "</script><script>x|y".into();
    result["data"] = "<img src=x>|".into();
    fs::write(dir.join("result.json"), result.to_string()).unwrap();
    let Rendered { html, markdown, .. } = report(&[dir]);
    assert!(!html.contains("<script>x") && !html.contains("<img src=x>"));
    // The data, the library, the script.
    assert_eq!(html.matches("</script>").count(), 3);
    assert_eq!(data(&html)["networks"][0]["name"], "</script><script>x|y");
    assert!(
        markdown.contains("| &lt;/script>&lt;script>x\\|y |")
            && markdown.contains("&lt;img src=x>\\|"),
        "{markdown}"
    );
}

#[test]
fn recipes_are_compared_key_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let dirs = [dense().write(folder.path()), pruned().write(folder.path())];
    fs::write(
        dirs[1].join("recipe.toml"),
        format!("{PRUNED}[[eval]]\nattack = 'a|b'\neps = '8/255'\n")
            .replace("epochs = 3", "epochs = 4"),
    )
    .unwrap();
    let Rendered { html, markdown, .. } = report(&dirs);
    let (_, table) = markdown.split_once("### What differs between the recipes\n").unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(
        rows,
        [
            "| key | dense | pruned |",
            "| --- | ---: | ---: |",
            "| eval[0].attack | – | a\\|b |",
            "| eval[0].eps | – | 8/255 |",
            "| prune.density | – | 0.1 |",
            "| prune.granularity | – | irregular |",
            "| prune.method | – | dnr |",
            "| train.epochs | 3 | 4 |",
        ]
    );
    assert!(html.contains("<td>train.epochs</td><td>3</td><td>4</td>"));
    let same = [dense().write(folder.path()), dense().write(&folder.path().join("again"))];
    assert!(report(&same).markdown.contains("The recipes of the runs do not differ."));
}

#[test]
fn json_files_are_recognised_by_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let run = pruned().write(folder.path());
    let mut measured = bench(&pruned());
    let alone = write("alone.json", measured.to_string());
    measured["model"] = run.join("checkpoints/best.safetensors").to_str().unwrap().into();
    let named = write("named.json", measured.to_string());
    let verified = json!({"model": "net.safetensors", "clean": 80.0, "attacked": 50.0, "verified": 12.0,
        "verified_f32": 11.0, "images": 100, "eps": "2/255", "bound": "crown"});
    let verified = write("verified.json", verified.to_string());
    fs::remove_file(run.join("bench.json")).unwrap();
    let Rendered { html, markdown, .. } = report(&[run, alone, named, verified]);
    // A result that names a run's checkpoint belongs to the run; another has the name of its file.
    let names = data(&html)["networks"].clone();
    let names: Vec<_> = names.as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["pruned", "alone", "net"]);
    assert!(
        markdown.contains("### Executions of pruned\n")
            && markdown.contains("### Executions of alone\n")
    );
    assert!(markdown.contains(
        "**net**: Of 100 images, 80.0 % are classified correctly, 50.0 % also under PGD at eps 2/255 and 12.0 % are proven \
         to stay correct at eps 2/255 by crown (11.0 % with the rounding of f32).\n"
    ), "{markdown}");
    assert!(markdown.contains("| net | 100 | 2/255 | crown | 80.00 | 50.00 | 12.00 | 11.00 |"));
    for (text, want) in [
        (
            "{\"rows\": []}",
            "is JSON of no known kind; expected a run folder, a folder of `rewire attack --out`",
        ),
        ("[]", "is JSON of no known kind"),
        ("PK\u{3}\u{4}", "is not JSON"),
        ("{\"verified\": 1, \"images\": -1}", "is a damaged result of rewire verify"),
    ] {
        let error =
            Report::read(&[write("other.json", text.to_owned())]).err().unwrap().to_string();
        assert!(error.contains("other.json") && error.contains(want), "{error}");
    }
    let error = Report::read(&[folder.path().join("absent")]).err().unwrap().to_string();
    assert!(error.contains("does not exist; expected a run folder"), "{error}");
}

#[test]
fn bench_names_the_network_and_the_processor() {
    let folder = tempfile::tempdir().unwrap();
    let net = crate::fixture::network_of("resnet18:width=0.0625", &Device::Cpu);
    save_model(&folder.path().join("net.safetensors"), &net).unwrap();
    let run = |more: &[&str]| -> Value {
        let line = [
            "bench",
            "net.safetensors",
            "--batch",
            "1",
            "--seconds",
            "0",
            "--device",
            "cpu",
            "--json",
        ];
        let output = crate::fixture::program(folder.path()).args(line).args(more).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let whole = run(&[]);
    assert_eq!(whole["model"], "net.safetensors");
    assert!(!whole["cpu"].as_str().unwrap().is_empty());
    // What `bench` prunes first is not what the file holds.
    assert!(run(&["--density", "0.5", "--granularity", "irregular"])["model"].is_null());
}
