//! Data sets: every format from small generated files, and every way in which such a file can be wrong.

use std::fs;
use std::path::Path;

use rewire::data::{AUGMENTATIONS, DATASETS, Dataset, Need, Pixels, Split};
use rewire::nn::NORMALIZATIONS;
use rewire::rng::Seed;
use tempfile::TempDir;

mod cifar;
mod commands;
mod fetch;
mod files;
mod folders;
mod idx;
mod images;
mod loader;
mod npy;
mod temporaries;
mod validation;

/// Where Debian's package puts Fashion-MNIST.
const DEBIAN: &str = "/usr/share/datasets/fashion-mnist";

/// Writes `files` to a new folder.
fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        put(dir.path(), name, bytes);
    }
    dir
}

fn put(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn load(name: &str, dir: &TempDir, need: Need) -> rewire::Result<Dataset> {
    Dataset::load_for(&format!("{name}:{}", dir.path().display()), need)
}

/// Reads, expects an error of one line, and expects each of `parts` in it.
#[track_caller]
fn refused(result: rewire::Result<Dataset>, parts: &[&str]) {
    let message = match result {
        Ok(_) => panic!("read without an error; expected {parts:?}"),
        Err(e) => e.to_string(),
    };
    assert!(!message.contains('\n'), "more than one line: {message}");
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

/// `len` bytes that look like noise; the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let stream = Seed(seed).stream("test.noise", 0, 0);
    (0..len).map(|i| stream.bits(i) as u8).collect()
}

fn bytes(split: &Split) -> &[u8] {
    match &split.pixels {
        Pixels::U8(pixels) => pixels,
        Pixels::F32(_) => panic!("f32 pixels"),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn an_unknown_data_set_is_refused_with_the_names_of_all() {
    for spec in ["cifar11:x", "", ":", "Fashion-mnist", "fashion-mnist-mini "] {
        let forms: Vec<_> = DATASETS.iter().map(|entry| entry.form).collect();
        refused(Dataset::load(spec), &forms);
    }
}

#[test]
fn a_set_of_files_needs_its_folder() {
    for entry in DATASETS.iter().filter(|entry| entry.form.contains(":DIR")) {
        // Where a set can be fetched, its name alone depends on what was.
        if entry.files.is_empty() {
            refused(Dataset::load(entry.name), &[entry.form]);
        }
        refused(Dataset::load(&format!("{}:", entry.name)), &[entry.form]);
        refused(Dataset::load(&format!("{}:/no/such/place", entry.name)), &["/no/such/place"]);
        let empty = tempfile::tempdir().unwrap();
        let path = empty.path().to_str().unwrap();
        for need in [Need::TRAIN, Need::EVAL, Need::PREDICT, Need::ANY] {
            refused(load(entry.name, &empty, need), &[path]);
        }
    }
}

#[test]
fn names_are_those_of_the_registry() {
    for entry in DATASETS {
        assert!(entry.form.starts_with(entry.name), "{}", entry.name);
        assert!(!entry.summary.is_empty() && !entry.summary.contains('\n'));
        assert_eq!(DATASETS.iter().filter(|e| e.name == entry.name).count(), 1);
    }
    assert_eq!(Dataset::load("synthetic:train=4,test=2").unwrap().name, "synthetic");
}

/// The tables of `docs/data.md` are those of the registries.
#[test]
fn the_documentation_lists_what_there_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/data.md");
    let text = fs::read_to_string(path).unwrap();
    let numbers = |values: &[f64]| {
        let values: Vec<_> = values.iter().map(|v| format!("{v:.4}")).collect();
        if values.is_empty() { "–".into() } else { values.join(", ") }
    };
    let sets = DATASETS.iter().map(|e| format!("| `{}` | {} |\n", e.form, e.summary));
    let augmentations = AUGMENTATIONS.iter().map(|e| format!("| `{}` | {} |\n", e.name, e.summary));
    let normalizations = NORMALIZATIONS.iter().map(|e| {
        format!("| `{}` | {} | {} | {} |\n", e.name, e.summary, numbers(e.mean), numbers(e.std))
    });
    for table in [sets.collect::<String>(), augmentations.collect(), normalizations.collect()] {
        assert!(
            text.contains(&format!("|\n{table}\n")) || text.ends_with(&table),
            "docs/data.md must hold\n{table}"
        );
    }
}
