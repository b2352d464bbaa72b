//! The commands on data of one's own: folders of images and pairs of `.npy` files.

use std::io::Cursor;
use std::process::Output;

use image::{ImageFormat, RgbImage};
use rewire::npy;
use serde_json::Value;

use super::*;
use crate::fixture::{self, program};

const RECIPE: &str = r#"
schema = 1
name = "own"
data = { set = "image-folder:pets" }
model = { arch = "vgg16:width=0.0625" }
train = { epochs = 1, batch_size = 8 }
[[eval]]
attack = "fgsm"
"#;

fn picture(seed: u64, format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_raw(32, 32, noise(seed, 32 * 32 * 3)).unwrap();
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, format).unwrap();
    out.into_inner()
}

/// A folder of images with the given classes, and a network that reads them.
fn pets(classes: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let formats =
        [("png", ImageFormat::Png), ("webp", ImageFormat::WebP), ("bmp", ImageFormat::Bmp)];
    for (c, class) in classes.iter().enumerate() {
        for (split, start) in [("train", 0), ("test", 100)] {
            for (i, (extension, format)) in formats.iter().enumerate() {
                let name = format!("pets/{split}/{class}/{i}.{extension}");
                put(dir.path(), &name, &picture((start + 10 * c + i) as u64, *format));
            }
        }
    }
    put(dir.path(), "own.toml", RECIPE.as_bytes());
    let model = fixture::network_of("vgg16:width=0.0625,classes=3", &rewire::Device::Cpu);
    rewire::io::save_model(&dir.path().join("m.safetensors"), &model).unwrap();
    dir
}

fn run(dir: &TempDir, line: &str) -> Output {
    program(dir.path()).args(line.split_whitespace()).args(["--device", "cpu"]).output().unwrap()
}

#[track_caller]
fn json(dir: &TempDir, line: &str) -> (Value, String) {
    let output = run(dir, &format!("{line} --json"));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{line}: {error}");
    (serde_json::from_slice(&output.stdout).unwrap(), error)
}

#[track_caller]
fn fails(dir: &TempDir, line: &str, parts: &[&str]) {
    let output = run(dir, line);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{line}: {error}");
    assert!(error.starts_with("error: ") && error.trim_end().lines().count() == 1, "{error}");
    parts.iter().for_each(|part| assert!(error.contains(part), "{error}: {part:?}"));
}

#[test]
fn commands_read_every_format_and_name_what_they_leave_out() {
    let dir = pets(&["ant", "bee", "cat"]);
    put(dir.path(), "pets/test/bee/scan.heic", b"\0\0\0\x18ftypheic");
    put(dir.path(), "pets/test/cat/README.txt", b"cats\x1b[2J");
    let (eval, warnings) = json(&dir, "eval m.safetensors --data image-folder:pets");
    assert_eq!((&eval["images"], &eval["class_names"][2]), (&9.into(), &"cat".into()));
    for part in ["warning: pets/test: 1 image is left out", "bee/scan.heic", "cat/README.txt"] {
        assert!(warnings.contains(part), "{warnings}");
    }
    let line = "attack m.safetensors --data image-folder:pets --attack fgsm --limit 2";
    let (_, warnings) = json(&dir, line);
    assert!(
        warnings.contains("of 2 of the 3 classes: ant 1, bee 1; no image of cat"),
        "{warnings}"
    );
}

#[test]
fn predict_takes_images_without_labels_and_says_which_row_is_which() {
    let dir = pets(&["ant", "bee", "cat"]);
    for (name, seed) in [("b.png", 1), ("a.png", 2), ("c.png", 3)] {
        put(dir.path(), &format!("new/{name}"), &picture(seed, ImageFormat::Png));
    }
    let (printed, _) = json(&dir, "predict m.safetensors --data image-folder:new -o l.npy");
    assert_eq!(printed["files"], serde_json::json!(["new/a.png", "new/b.png", "new/c.png"]));
    let logits = npy::read(&dir.path().join("l.npy")).unwrap();
    assert_eq!(logits.shape, [3, 3]);
    for (row, class) in
        logits.to_f32().unwrap().chunks(3).zip(printed["predictions"].as_array().unwrap())
    {
        let best = row[class.as_u64().unwrap() as usize];
        assert!(row.iter().all(|&logit| logit <= best), "{row:?}, {class}");
    }
    for line in ["eval m.safetensors", "attack m.safetensors --attack fgsm"] {
        fails(&dir, &format!("{line} --data image-folder:new"), &["new: ", "labels are missing"]);
    }
    fails(&dir, "train own.toml --data image-folder:new --out o", &["labels are missing"]);
}

#[test]
fn labels_outside_the_classes_are_refused_also_where_none_are_read() {
    let dir = pets(&["ant"]);
    let write = |stem: &str, labels: &[u8]| {
        let (folder, images) = (dir.path().join("npy"), labels.len());
        fs::create_dir_all(&folder).unwrap();
        let shape = [images, 3, 32, 32];
        let pixels = noise(1, images * 3 * 32 * 32);
        npy::write(&folder.join(format!("{stem}_images.npy")), &shape, &pixels).unwrap();
        npy::write(&folder.join(format!("{stem}_labels.npy")), &[images], labels).unwrap();
    };
    write("test", &[0, 2, 3]);
    let line = "predict m.safetensors --data npy:npy -o l.npy";
    let says = ["test_labels.npy", "label 3 of image 2", "0..3"];
    fails(&dir, line, &says);
    fails(&dir, "eval m.safetensors --data npy:npy", &says);
    assert!(!dir.path().join("l.npy").exists());
    write("test", &[0, 2, 1]);
    write("train", &[0, 9]);
    fails(&dir, line, &["train_labels.npy", "label 9 of image 1"]);
    write("train", &[0, 1]);
    json(&dir, line);
}

#[test]
fn class_names_travel_and_other_classes_are_refused() {
    let dir = pets(&["ant", "bee", "cat"]);
    json(&dir, "train own.toml --out run");
    let best = "run/checkpoints/best.safetensors";
    let names = serde_json::json!(["ant", "bee", "cat"]);
    let (inspected, _) = json(&dir, &format!("inspect {best}"));
    assert_eq!(inspected["class_names"], names);
    let text = String::from_utf8(run(&dir, &format!("inspect {best}")).stdout).unwrap();
    assert!(text.contains("classes: ant, bee, cat"), "{text}");
    for line in [
        format!("shrink {best} -o s.safetensors"),
        format!("prune {best} -o p.safetensors --density 0.5"),
    ] {
        json(&dir, &line);
    }
    for file in [best, "s.safetensors", "p.safetensors"] {
        let line = format!("predict {file} --data image-folder:pets -o l.npy");
        assert_eq!(json(&dir, &line).0["class_names"], names, "{file}");
        json(&dir, &format!("eval {file} --data image-folder:pets"));
    }
    // Data without names are compared with nobody; a network learns the names of what it is trained on next.
    let more = json(&dir, &format!("train own.toml --out more --init {best}"));
    assert_eq!(more.0["accuracy"].as_object().unwrap().len(), 3);
    for (classes, says) in [
        (["ant", "bee", "dog"], ["class 2 is \"dog\" in the data", "\"cat\" in the network"]),
        (["bee", "cat", "dog"], ["class 0 is \"bee\" in the data", "no class \"dog\""]),
    ] {
        let other = pets(&classes);
        fs::copy(dir.path().join(best), other.path().join("b.safetensors")).unwrap();
        fails(&other, "eval b.safetensors --data image-folder:pets", &says);
        let line = "attack b.safetensors --attack fgsm --data image-folder:pets";
        fails(&other, line, &says);
        json(&other, "predict b.safetensors --data image-folder:pets -o l.npy");
        let line = "train own.toml --out again --init b.safetensors";
        json(&other, line);
        let (inspected, _) = json(&other, "inspect again/checkpoints/last.safetensors");
        assert_eq!(inspected["class_names"], serde_json::json!(classes));
    }
    let fewer = pets(&["bee", "cat"]);
    fs::copy(dir.path().join(best), fewer.path().join("b.safetensors")).unwrap();
    fails(
        &fewer,
        "eval b.safetensors --data image-folder:pets",
        &["the data have no class \"ant\""],
    );
}

#[test]
fn the_samples_of_a_run_are_of_all_classes() {
    let dir = pets(&["ant", "bee", "cat"]);
    // In a pair of files the order may be that of the classes.
    let labels: Vec<u8> = (0..36).map(|i| i / 12).collect();
    for stem in ["train", "test"] {
        let path = |what: &str| dir.path().join(format!("{stem}_{what}.npy"));
        npy::write(&path("images"), &[36, 3, 32, 32], &noise(1, 36 * 3072)).unwrap();
        npy::write(&path("labels"), &[36], &labels).unwrap();
    }
    json(&dir, "train own.toml --data npy:. --out run");
    let text = fs::read_to_string(dir.path().join("run/samples.json")).unwrap();
    let samples: Value = serde_json::from_str(&text).unwrap();
    let shown = samples["images"].as_array().unwrap().iter();
    let shown: Vec<u64> = shown.map(|image| image["label"].as_u64().unwrap()).collect();
    assert_eq!(shown, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]);
    // The clean pixels are those of the image: the first of class 1 is image 12.
    let first: Vec<u8> = noise(1, 36 * 3072)[12 * 3072..13 * 3072].to_vec();
    let nhwc: Vec<u8> = (0..1024).flat_map(|i| [0, 1, 2].map(|c| first[c * 1024 + i])).collect();
    assert_eq!(samples["images"][1]["clean"], serde_json::json!(nhwc));
    let (_, warnings) =
        json(&dir, "train own.toml --data npy:. --out few --set data.train_limit=12");
    assert!(
        warnings.contains("train_images.npy: the 12 training images are of 1 of the 3"),
        "{warnings}"
    );
}

#[test]
fn data_info_counts_the_images_of_each_class() {
    let dir = pets(&["ant", "bee", "cat"]);
    put(dir.path(), "pets/test/bee/more.png", &picture(77, ImageFormat::Png));
    let (info, _) = json(&dir, "data info image-folder:pets");
    assert_eq!(info["train_per_class"], serde_json::json!([3, 3, 3]));
    assert_eq!(info["test_per_class"], serde_json::json!([3, 4, 3]));
    let text = String::from_utf8(run(&dir, "data info image-folder:pets").stdout).unwrap();
    for part in
        ["3×32×32", "training images 9", "test images     10", "bee            3          4"]
    {
        assert!(text.contains(part), "{text}");
    }
    // By two passes over the training images.
    let set = Dataset::load_for(
        &format!("image-folder:{}", dir.path().join("pets").display()),
        Need::TRAIN,
    )
    .unwrap();
    let pixels = bytes(set.train().unwrap());
    for channel in 0..3 {
        let planes = pixels.chunks(1024).skip(channel).step_by(3);
        let values: Vec<f64> = planes.flatten().map(|&v| f64::from(v) / 255.0).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        let got = [&info["mean"][channel], &info["std"][channel]].map(|v| v.as_f64().unwrap());
        assert!((got[0] - mean).abs() < 1e-9 && (got[1] - square.sqrt()).abs() < 1e-9, "{got:?}");
    }
    let (info, _) = json(&dir, "data info image-folder:pets/test/bee");
    assert_eq!((&info["test"], &info["classes"]), (&4.into(), &Value::Null));
}

/// `PIL.Image.convert("L")`'s weights; grey stays grey.
#[test]
fn a_picture_becomes_what_the_network_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.png");
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50]];
    let image = RgbImage::from_fn(2, 2, |x, y| image::Rgb(colours[(2 * y + x) as usize]));
    image.save(&path).unwrap();
    let read = |channels| rewire::data::read_image(&path, channels, 2);
    let values = |channels| read(channels).unwrap().to_vec::<f32>().unwrap();
    let want: Vec<f32> = colours.iter().flatten().map(|&v| f32::from(v) / 255.0).collect();
    assert_eq!(values(3), want);
    // 0.299·R + 0.587·G + 0.114·B, rounded: 76.245, 149.685, 29.07, 124.2.
    assert_eq!(values(1), [76.0f32, 150.0, 29.0, 124.0].map(|v| v / 255.0));
    assert_eq!(read(1).unwrap().shape(), [1, 2, 2, 1]);
    image::GrayImage::from_raw(2, 2, vec![0, 7, 128, 255]).unwrap().save(&path).unwrap();
    assert_eq!(
        read(1).unwrap().to_vec::<f32>().unwrap(),
        [0.0f32, 7.0, 128.0, 255.0].map(|v| v / 255.0)
    );
    let message = read(4).unwrap_err().to_string();
    assert!(message.contains("channels = 4") && message.contains("p.png"), "{message}");
}
