//! Compiles the CUDA kernels: to PTX by NVRTC where this machine has it.

#[path = "src/device/nvrtc.rs"]
mod nvrtc;
#[path = "src/device/source.rs"]
mod source;

use nvrtc::{Failure, Nvrtc};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    embed_kernels();
}

/// Writes `OUT_DIR/kernels.rs`, the table of `kernels/*.cu` that `src/device/kernels.rs` includes: name,
/// source, entry points, and PTX per architecture if there is an NVRTC.
fn embed_kernels() {
    for file in ["src/device/nvrtc.rs", "src/device/source.rs", "kernels"] {
        println!("cargo:rerun-if-changed={file}");
    }
    for variable in ["CUDA_PATH", "CUDA_HOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let files = files_with_extension("kernels", "cu");
    let headers: Vec<_> = files_with_extension("kernels/common", "cuh")
        .iter()
        .map(|path| (format!("common/{}", name(path, path.file_name())), read(path)))
        .collect();
    let compiler = match Nvrtc::find() {
        Ok(found) => Some(found),
        Err(_) if files.is_empty() => None,
        Err(why) => {
            println!(
                "cargo:warning={why}: the CUDA kernels are embedded as sources and compiled on first use"
            );
            None
        }
    };
    let mut table = String::new();
    let version = compiler.as_ref().map(|c| format!("{}.{}", c.version.0, c.version.1));
    writeln!(table, "pub const BUILT_BY: Option<&str> = {version:?};").unwrap();
    writeln!(table, "pub static HEADERS: &[(&str, &str)] = &[").unwrap();
    for (header, _) in &headers {
        writeln!(table, "    ({header:?}, {}),", include_source(header)).unwrap();
    }
    writeln!(table, "];\npub static KERNELS: &[KernelFile] = &[").unwrap();
    for path in &files {
        let kernel = name(path, path.file_stem());
        let text = read(path);
        writeln!(
            table,
            "    KernelFile {{ name: {kernel:?}, source: {}, entry_points: &{:?}, ptx: &[{}] }},",
            include_source(&format!("{kernel}.cu")),
            entry_points(&text),
            compiler.as_ref().map_or(String::new(), |c| compile(c, &kernel, &text, &headers)),
        )
        .unwrap();
    }
    writeln!(table, "];").unwrap();
    write_if_changed(&out_dir().join("kernels.rs"), &table);
}

/// Compiles one file for each of its architectures into `OUT_DIR/NAME.ARCH.ptx`; returns table entries.
/// A kernel that does not compile, or that the scan of the source does not see, ends the build.
fn compile(nvrtc: &Nvrtc, kernel: &str, text: &str, headers: &[(String, String)]) -> String {
    let headers: Vec<_> = headers.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let mut entries = String::new();
    let mut compiled = BTreeSet::new();
    for arch in source::architectures(text) {
        let options = source::options(text, arch);
        let ptx = match nvrtc.compile(&format!("{kernel}.cu"), text, &headers, &options) {
            Ok(ptx) => ptx,
            Err(Failure::Source(log)) => fail(&format!("kernels/{kernel}.cu for {arch}:\n{log}")),
            Err(Failure::Nvrtc(why)) => {
                println!(
                    "cargo:warning={}: {why}; kernels/{kernel}.cu is embedded as source",
                    nvrtc.path.display()
                );
                return String::new();
            }
        };
        compiled.extend(ptx_entry_points(&ptx));
        let file = format!("{kernel}.{arch}.ptx");
        write_if_changed(&out_dir().join(&file), &ptx);
        let include = format!("include_str!(concat!(env!(\"OUT_DIR\"), \"/{file}\"))");
        write!(entries, "({arch:?}, {include}), ").unwrap();
    }
    let scanned: BTreeSet<_> = entry_points(text).into_iter().collect();
    if compiled != scanned {
        fail(&format!(
            "kernels/{kernel}.cu: write out every entry point as extern \"C\" __global__ void NAME(…), \
             not by a macro: the compiler sees {compiled:?}, the scan {scanned:?}"
        ));
    }
    entries
}

/// Ends the build with a message and no backtrace.
fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(1)
}

fn include_source(file: &str) -> String {
    format!("include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/kernels/{file}\"))")
}

fn out_dir() -> PathBuf {
    env::var_os("OUT_DIR").expect("cargo sets OUT_DIR").into()
}

/// In order of name; none where the folder is missing.
fn files_with_extension(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

fn name(path: &Path, part: Option<&std::ffi::OsStr>) -> String {
    let part = part.and_then(|p| p.to_str());
    part.unwrap_or_else(|| fail(&format!("{}: the name is not UTF-8", path.display()))).to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())))
}

/// Leaves an equal file as it is, so that nothing is compiled again for its time stamp.
fn write_if_changed(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return;
    }
    fs::write(path, text).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())));
}

/// The names of `extern "C" __global__ void NAME(…)` in order of appearance. Bodies of macros do not
/// count: an entry point is written out.
fn entry_points(source: &str) -> Vec<String> {
    let text = strip_comments_and_defines(source);
    let mut names = Vec::new();
    for (at, _) in text.match_indices("__global__") {
        if text[..at].trim_end().ends_with("extern \"C\"") {
            names.extend(declared_name(&text[at + "__global__".len()..]));
        }
    }
    names
}

/// The entry points of compiled PTX.
fn ptx_entry_points(ptx: &str) -> Vec<String> {
    ptx.lines()
        .filter_map(|line| line.split_once(".entry "))
        .map(|(_, name)| name.trim_end().trim_end_matches('(').trim().to_owned())
        .collect()
}

/// `void __launch_bounds__(256) NAME(` or `__launch_bounds__(256) void NAME(`: the NAME.
fn declared_name(mut text: &str) -> Option<String> {
    loop {
        text = text.trim_start();
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        let (word, rest) = text.split_at(end);
        match word {
            "" => return None,
            "void" => text = rest,
            "__launch_bounds__" => text = after_parentheses(rest)?,
            name => return rest.trim_start().starts_with('(').then(|| name.to_owned()),
        }
    }
}

/// What follows the balanced `( … )` that `text` starts with.
fn after_parentheses(text: &str) -> Option<&str> {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return Some(&text[i + 1..]),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn strip_comments_and_defines(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("/*").into_iter().chain(rest.find("//")).min() {
        out.push_str(&rest[..at]);
        let end = if rest[at..].starts_with("/*") {
            rest[at..].find("*/").map(|n| at + n + 2)
        } else {
            rest[at..].find('\n').map(|n| at + n)
        };
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    out.push_str(rest);
    let mut in_define = false;
    out.lines()
        .filter(|line| {
            let skip = in_define || line.trim_start().starts_with("#define");
            in_define = skip && line.trim_end().ends_with('\\');
            !skip
        })
        .collect::<Vec<_>>()
        .join("\n")
}
