//! Lists the kernels of `kernels/*.cu`, compiles them to PTX where there is an NVRTC, and with the feature
//! `cuda-host` for the host.

#[path = "src/device/nvrtc.rs"]
mod nvrtc;
#[path = "src/device/source.rs"]
mod source;

use nvrtc::{Failure, Nvrtc};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

/// A kernel file and its entry points, each with the text in `__launch_bounds__(..)`.
struct KernelFile {
    path: PathBuf,
    text: String,
    entry_points: Vec<(String, String)>,
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    let kernels = kernel_files(Path::new("kernels"));
    write_entry_points(&kernels);
    embed_kernels(&kernels);
    #[cfg(feature = "cuda-host")]
    host::build(&kernels);
}

fn out_dir() -> PathBuf {
    PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"))
}

/// The files of a folder with that extension in the order of their names; none where it is missing.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|e| e.path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == extension));
    paths.sort();
    paths
}

fn kernel_files(folder: &Path) -> Vec<KernelFile> {
    let open = |path: PathBuf| {
        let text = read(&path);
        let entry_points = entry_points(&text);
        assert!(!entry_points.is_empty(), "{}: no entry point", path.display());
        KernelFile { path, text, entry_points }
    };
    files(folder, "cu").into_iter().map(open).collect()
}

/// Names and launch bounds behind each `extern "C" __global__ void`, comments left out.
fn entry_points(text: &str) -> Vec<(String, String)> {
    let code: String =
        text.lines().map(|l| l.split("//").next().unwrap_or("").to_owned() + "\n").collect();
    let mut found = Vec::new();
    for rest in code.split("extern \"C\" __global__ void").skip(1) {
        let mut rest = rest.trim_start();
        let mut bounds = String::new();
        if let Some(inner) = rest.strip_prefix("__launch_bounds__(") {
            let mut depth = 1;
            let end = inner.find(|c| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            });
            let end = end.expect("__launch_bounds__ has no end");
            bounds = inner[..end].to_owned();
            rest = inner[end + 1..].trim_start();
        }
        let name = rest.split('(').next().unwrap_or("").trim();
        found.push((name.to_owned(), bounds));
    }
    found
}

/// `entry_points.rs`: the names, sorted.
fn write_entry_points(kernels: &[KernelFile]) {
    let mut names: Vec<_> = kernels.iter().flat_map(|k| &k.entry_points).map(|(n, _)| n).collect();
    names.sort();
    fs::write(out_dir().join("entry_points.rs"), format!("&{names:?}"))
        .expect("OUT_DIR is writable");
}

/// Writes `kernels.rs`, which `src/device/kernels.rs` includes: name, source and entry points of each file,
/// and PTX for each of its architectures if there is an NVRTC.
fn embed_kernels(kernels: &[KernelFile]) {
    for variable in ["CUDA_PATH", "CUDA_HOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let headers: Vec<_> = files(Path::new("kernels/common"), "cuh")
        .iter()
        .map(|path| (format!("common/{}", utf8(path.file_name())), read(path)))
        .collect();
    let nvrtc = Nvrtc::find()
        .inspect_err(|why| {
            println!(
                "cargo::warning={why}: the CUDA kernels are embedded as sources and compiled on first use"
            );
        })
        .ok();
    let version = nvrtc.as_ref().map(|c| format!("{}.{}", c.version.0, c.version.1));
    let mut table = format!("pub const BUILT_BY: Option<&str> = {version:?};\n");
    table += "pub static HEADERS: &[(&str, &str)] = &[\n";
    for (header, _) in &headers {
        let _ = writeln!(table, "    ({header:?}, {}),", include_source(header));
    }
    table += "];\npub static KERNELS: &[KernelFile] = &[\n";
    let lines = on_all_cores(kernels, |kernel| {
        let name = utf8(kernel.path.file_stem());
        let names: Vec<_> = kernel.entry_points.iter().map(|(name, _)| name).collect();
        let source = include_source(&format!("{name}.cu"));
        let ptx = nvrtc.as_ref().map(|nvrtc| compile_to_ptx(nvrtc, kernel, name, &headers));
        let ptx = ptx.unwrap_or_default();
        format!(
            "    KernelFile {{ name: {name:?}, source: {source}, entry_points: &{names:?}, ptx: &[{ptx}] }},\n"
        )
    });
    table.extend(lines);
    write_if_changed("kernels.rs", &format!("{table}];\n"));
}

/// What `work` makes of each item, in their order. A panic of one ends the build.
fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let some = || {
        let mut made = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return made };
            made.push((index, work(item)));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut made: Vec<(usize, R)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
        let made = |worker: thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|_| std::process::exit(1))
        };
        workers.into_iter().flat_map(made).collect()
    });
    made.sort_by_key(|(index, _)| *index);
    made.into_iter().map(|(_, made)| made).collect()
}

/// Leaves `NAME.ARCH.ptx` for each architecture; returns the table's entries. A kernel that does not compile,
/// or that the scan of the source does not see, ends the build.
fn compile_to_ptx(
    nvrtc: &Nvrtc,
    kernel: &KernelFile,
    name: &str,
    headers: &[(String, String)],
) -> String {
    let headers: Vec<_> = headers.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let (mut entries, mut compiled) = (String::new(), BTreeSet::new());
    for arch in source::architectures(&kernel.text) {
        let options = source::options(&kernel.text, arch);
        let ptx = match nvrtc.compile(&format!("{name}.cu"), &kernel.text, &headers, &options) {
            Ok(ptx) => ptx,
            Err(Failure::Source(log)) => fail(&format!("kernels/{name}.cu for {arch}:\n{log}")),
            Err(Failure::Nvrtc(why)) => {
                let nvrtc = nvrtc.path.display();
                println!("cargo::warning={nvrtc}: {why}; kernels/{name}.cu is embedded as source");
                return String::new();
            }
        };
        let lines = ptx.lines().filter_map(|line| line.split_once(".entry "));
        compiled.extend(lines.map(|(_, name)| name.trim_end_matches(['(', ' ']).to_owned()));
        let file = format!("{name}.{arch}.ptx");
        write_if_changed(&file, &ptx);
        let include = format!("include_str!(concat!(env!(\"OUT_DIR\"), \"/{file}\"))");
        let _ = write!(entries, "({arch:?}, {include}), ");
    }
    let scanned: BTreeSet<_> = kernel.entry_points.iter().map(|(name, _)| name.clone()).collect();
    if compiled != scanned {
        fail(&format!(
            "kernels/{name}.cu: write out every entry point as extern \"C\" __global__ void NAME(..), not by a \
             macro: the compiler sees {compiled:?}, the scan {scanned:?}"
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

fn utf8(name: Option<&OsStr>) -> &str {
    name.and_then(OsStr::to_str).unwrap_or_else(|| fail(&format!("{name:?} is not UTF-8")))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())))
}

/// An equal file stays as it is, so that nothing is compiled again for its time stamp.
fn write_if_changed(file: &str, text: &str) {
    let path = out_dir().join(file);
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return;
    }
    fs::write(&path, text).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())));
}

/// The device `cuda-host`: `kernels/*.cu`, the test kernels where they are, and the runtime, as one archive.
#[cfg(feature = "cuda-host")]
mod host {
    use super::*;
    use std::collections::HashMap;
    use std::collections::hash_map::DefaultHasher;
    use std::fmt::Write;
    use std::hash::{Hash, Hasher};
    use std::process::Command;

    /// A file to compile: its name, its text, whether the checks go in, and what its object depends on.
    struct Unit {
        name: String,
        text: String,
        kernel: bool,
        object: PathBuf,
    }

    /// Registers of a thread and bytes of static shared memory in the machine code of an entry point.
    type MachineCode = (u32, u32);

    pub fn build(kernels: &[KernelFile]) {
        println!("cargo::rerun-if-changed=tests/kernels");
        println!("cargo::rerun-if-changed=docs/kernels.txt");
        let table = fs::read_to_string("docs/kernels.txt").unwrap_or_default();
        let table = machine_code(&table);
        // A kernel that the table lacks has no registers, and the runtime refuses to launch it.
        let of_product = |name: &str| table.get(name).copied().unwrap_or((0, 0));
        let folder = out_dir().join("host");
        fs::create_dir_all(&folder).expect("OUT_DIR is writable");
        let runtime = texts(Path::new("kernels/host"));
        let headers: String =
            texts(Path::new("kernels/common")).iter().map(|(_, t)| t.as_str()).collect();
        let shim = &runtime.iter().find(|(n, _)| n == "shim.h").expect("kernels/host/shim.h").1;

        let tests = kernel_files(Path::new("tests/kernels"));
        let on_host = |k: &&KernelFile| !k.text.lines().any(|l| l.trim() == "// host: none");
        let files: Vec<_> = kernels.iter().chain(&tests).filter(on_host).collect();
        let depends = [headers.as_str(), shim];
        let mut units: Vec<_> = kernels
            .iter()
            .filter(on_host)
            .map(|k| kernel_unit(&folder, k, of_product, &depends))
            .chain(tests.iter().filter(on_host).map(|k| {
                let stated = stated_machine_code(&k.text);
                let of_test = |name: &str| stated.get(name).copied().unwrap_or((1, u32::MAX));
                kernel_unit(&folder, k, of_test, &depends)
            }))
            .collect();
        units.push(tables_unit(&folder, &files));
        let all: String = runtime.iter().map(|(_, t)| t.as_str()).collect();
        for (name, text) in runtime.iter().filter(|(n, _)| n.ends_with(".cpp")) {
            let include = format!("#include \"host/{name}\"\n");
            units.push(unit(&folder, name.trim_end_matches(".cpp"), include, false, &[text, &all]));
        }
        compile(&folder, &units);
        println!("cargo::rustc-check-cfg=cfg(host_fma)");
        if has_fma() {
            println!("cargo::rustc-cfg=host_fma");
        }
        let mut archive = cc::Build::new();
        archive.objects(units.iter().map(|u| &u.object)).cpp(true).cpp_link_stdlib(None);
        archive.compile("rewire_host");
    }

    /// The table of docs/kernels.txt: of each entry point the most of any architecture.
    fn machine_code(table: &str) -> HashMap<&str, MachineCode> {
        let mut found = HashMap::new();
        for line in table.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            let [name, _, registers, _, _, shared, ..] = words[..] else { continue };
            if let (Ok(registers), Ok(shared)) = (registers.parse::<u32>(), shared.parse::<u32>()) {
                let most = found.entry(name).or_insert((0, 0));
                *most = (registers.max(most.0), shared.max(most.1));
            }
        }
        found
    }

    /// What the header of a test's kernels states instead: `// machine code: NAME REGISTERS SHARED`.
    fn stated_machine_code(text: &str) -> HashMap<&str, MachineCode> {
        let number = |word: &str| word.parse().expect("NAME REGISTERS SHARED");
        let words = source::header_words(text, "machine code");
        words.chunks_exact(3).map(|w| (w[0], (number(w[1]), number(w[2])))).collect()
    }

    /// Name and text of each file in a folder.
    fn texts(folder: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|e| {
                let path = e.expect("a readable folder").path();
                let text =
                    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), text)
            })
            .collect();
        files.sort();
        files
    }

    /// The object's name carries a hash of all that goes into it: what is there need not be compiled again.
    fn unit(folder: &Path, name: &str, text: String, kernel: bool, depends: &[&str]) -> Unit {
        let mut hasher = DefaultHasher::new();
        (&text, kernel, depends, compiler_command(kernel)).hash(&mut hasher);
        let object = folder.join(format!("{name}.{:016x}.o", hasher.finish()));
        Unit { name: name.to_owned(), text, kernel, object }
    }

    fn kernel_unit(
        folder: &Path,
        file: &KernelFile,
        machine_code: impl Fn(&str) -> MachineCode,
        depends: &[&str],
    ) -> Unit {
        let stem = file.path.file_stem().unwrap_or_default().to_string_lossy();
        let mut text = format!("#include \"{}\"\n", file.path.display());
        for (name, bounds) in &file.entry_points {
            let (registers, shared) = machine_code(name);
            let _ = writeln!(
                text,
                "static constexpr host::Kernel entry_{name}{{\"{name}\", host::Trampoline<{name}>::signature, \
                 host::max_threads({bounds}), {registers}, {shared}u, host::Trampoline<{name}>::run}};"
            );
        }
        let list: String = file.entry_points.iter().map(|(n, _)| format!("&entry_{n}, ")).collect();
        let _ = writeln!(
            text,
            "namespace host {{ extern const Kernel* const {stem}_table[] = {{{list}nullptr}}; }}"
        );
        let depends: Vec<&str> = depends.iter().copied().chain([file.text.as_str()]).collect();
        unit(folder, &stem, text, true, &depends)
    }

    fn tables_unit(folder: &Path, files: &[&KernelFile]) -> Unit {
        let stems = files.iter().map(|k| k.path.file_stem().unwrap_or_default().to_string_lossy());
        let (mut declared, mut listed) = (String::new(), String::new());
        for stem in stems {
            let _ = writeln!(declared, "extern const Kernel* const {stem}_table[];");
            let _ = write!(listed, "{stem}_table, ");
        }
        let text = format!(
            "namespace host {{\n{declared}extern const Kernel* const* const tables[] = {{{listed}nullptr}};\n}}\n"
        );
        unit(folder, "tables", text, false, &[])
    }

    /// The compiler and its flags, for kernels with the hooks of the checks.
    fn compiler_command(kernel: bool) -> Vec<String> {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .opt_level(2)
            .debug(true)
            .warnings(true)
            .include(".")
            .include("kernels");
        for flag in [
            "-fno-exceptions",
            "-fno-rtti",
            "-fno-strict-aliasing",
            "-ffp-contract=off",
            "-fvisibility=hidden",
        ] {
            build.flag(flag);
        }
        for flag in
            ["-Wno-unknown-pragmas", "-fno-threadsafe-statics", "-include", "kernels/host/shim.h"]
        {
            build.flag(flag);
        }
        if kernel {
            build.flag("-fsanitize=thread");
            build.flag("-fsanitize=bounds,alignment,shift-exponent,integer-divide-by-zero,null");
            build.flag("--param").flag("tsan-instrument-func-entry-exit=0");
            // A wrapper's last call returns to the wrapper, so that its place in the source is known.
            build.flag("-fno-optimize-sibling-calls");
            if has_fma() {
                build.flag("-mfma");
            }
            // A frame larger than the guard below a stack touches the guard.
            build.flag("-fstack-clash-protection");
            // A loop turned into a call of memset or memcpy would escape the hooks.
            build.flag("-fno-tree-loop-distribute-patterns");
        }
        let command = build.get_compiler().to_command();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|w| w.to_string_lossy().into_owned()).collect()
    }

    /// Whether kernels may use the fused multiply-add of the processor: a call of `fmaf` takes ten times longer.
    fn has_fma() -> bool {
        #[cfg(target_arch = "x86_64")]
        return env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|a| a == "x86_64")
            && is_x86_feature_detected!("fma");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Compiles what has no object yet, on all cores, and removes objects of older sources.
    fn compile(folder: &Path, units: &[Unit]) {
        for entry in fs::read_dir(folder).expect("OUT_DIR is readable").flatten() {
            if !units.iter().any(|u| u.object == entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let missing: Vec<_> = units.iter().filter(|u| !u.object.exists()).collect();
        on_all_cores(&missing, |unit| compile_unit(folder, unit));
    }

    fn compile_unit(folder: &Path, unit: &Unit) {
        let source = folder.join(format!("{}.cpp", unit.name));
        fs::write(&source, &unit.text).expect("OUT_DIR is writable");
        let partial = unit.object.with_extension("partial");
        let words = compiler_command(unit.kernel);
        let output = Command::new(&words[0])
            .args(&words[1..])
            .arg("-c")
            .arg(&source)
            .arg("-o")
            .arg(&partial)
            .output()
            .unwrap_or_else(|e| {
                panic!("{}: {e}; the feature cuda-host needs a C++17 compiler", words[0])
            });
        let log = String::from_utf8_lossy(&output.stderr);
        for line in log.lines() {
            println!("cargo::warning={line}");
        }
        assert!(output.status.success(), "{} does not compile for the host:\n{log}", unit.name);
        fs::rename(&partial, &unit.object).expect("OUT_DIR is writable");
    }
}
