//! What every file in `kernels/` owes its reader.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn kernels() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("kernels"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// The comment at the top of the file.
fn header(text: &str) -> String {
    text.lines().take_while(|line| line.starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn headers_keep_the_contract() {
    let mut missing = Vec::new();
    for file in kernels() {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let header = header(&fs::read_to_string(&file).unwrap());
        if !header.starts_with(&format!("// {name} -- ")) {
            missing.push(format!("{name}: first line must be `// {name} -- what it does.`"));
        }
        for word in [
            "// Shapes ",
            "// Launch ",
            "// Result ",
            "// Cost ",
            "// Source ",
            "// Host ",
            " Cases ",
        ] {
            if !header.contains(word) {
                missing.push(format!("{name}: no `{word}…`"));
            }
        }
        for word in header.split([' ', ',', ';', '(', ')', '\n']) {
            let path = word.trim_end_matches(['.', ':']);
            let of_project = path.starts_with("src/") || path.starts_with("tests/");
            if of_project && !root().join(path).exists() {
                missing.push(format!("{name}: names {path}, which is not there"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn ptx_shared_memory_and_includes_stay_in_their_places() {
    let mut wrong = Vec::new();
    for file in kernels() {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap();
            for word in ["asm(", "asm volatile", "__shared__"] {
                if code.contains(word) {
                    wrong.push(format!(
                        "{name}:{}: `{word}` belongs in kernels/common/",
                        number + 1
                    ));
                }
            }
            if code.contains("#include") && !code.contains("\"common/") {
                wrong.push(format!("{name}:{}: kernels include common/ only", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
