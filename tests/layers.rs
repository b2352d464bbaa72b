//! Imports go one way: a module of `src/` uses only modules to its left.

use std::fs;
use std::path::{Path, PathBuf};

/// From left to right; the modules of one row do not import one another unless they stand in order.
const ORDER: &[&[&str]] = &[
    &["error"],
    &["registry", "rng", "dtype", "npy", "file"],
    &["device"],
    &["tensor", "tape"],
    &["ops"],
    &["nn", "optim", "data"],
    &["models"],
    &["prune", "attack", "verify"],
    &["train"],
    &["io"],
    &["run"],
    &["infer"],
    &["report"],
    &["cli"],
];

/// Rows whose modules may use one another, in either direction.
const JOINT: &[&str] = &["registry", "rng", "dtype", "npy", "file", "tensor", "tape"];

/// Pairs (from, to) that would be arrows to the right and are meant.
const ALLOWED: &[(&str, &str)] = &[
    // A gradient that two consumers contribute to is summed by the operation `add`.
    ("tape", "ops"),
];

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|row| row.contains(&module))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules named by `crate::x` in the product's part of a source text (tests inside are left out).
fn imports(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for part in line.split("crate::").skip(1) {
            let names = match part.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap().split(',').collect(),
                None => vec![part],
            };
            found.extend(names.iter().map(|name| {
                let end = |c: char| !(c.is_alphanumeric() || c == '_');
                name.trim().split(end).next().unwrap().to_owned()
            }));
        }
    }
    found
}

#[test]
fn imports_go_to_the_left_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    sources(&root, &mut files);
    for file in &files {
        let relative = file.strip_prefix(&root).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if matches!(module, "lib" | "main") {
            continue;
        }
        let from = rank(module).unwrap_or_else(|| panic!("src/{module} has no place in ORDER"));
        for import in imports(&fs::read_to_string(file).unwrap()) {
            let Some(to) = rank(&import) else { continue };
            let fine = to < from
                || import == module
                || (to == from && JOINT.contains(&module))
                || ALLOWED.contains(&(module, import.as_str()));
            if !fine {
                wrong.push(format!("{} uses crate::{import}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows to the right:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    let text = "use crate::nn::Graph;\nuse crate::{Error, ops, data::Dataset};\n// crate::cli\nlet x = crate::io::y();\n#[cfg(test)]\nmod tests { use crate::cli; }";
    assert_eq!(imports(text), ["nn", "Error", "ops", "data", "io"]);
}
