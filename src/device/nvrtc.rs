//! NVRTC, NVIDIA's run-time compiler: where it is on this machine, and a call to it.
//!
//! Bound here and not through `cudarc`, which looks in the loader's path only. `build.rs` includes this
//! file too, so it needs nothing of the crate.

use libloading::Library;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::{env, fs, ptr};

/// The oldest CUDA whose NVRTC knows every architecture and instruction the kernels use: `mma.sp::ordered_metadata` is
/// of PTX ISA 8.5, which came with CUDA 12.5.
const OLDEST: (i32, i32) = (12, 5);
/// The newest major version that is looked for by name in the loader's path.
const NEWEST_MAJOR: i32 = 16;

/// An NVRTC library that has been loaded.
pub struct Nvrtc {
    /// The file, or the bare name where the loader's path had it.
    pub path: PathBuf,
    /// CUDA version, e.g. (13, 0).
    pub version: (i32, i32),
    library: Library,
    /// NVRTC opens it by bare name, which succeeds when it is loaded already.
    _builtins: Vec<Library>,
}

/// Why there is no PTX.
pub enum Failure {
    /// The source does not compile: the compiler's log.
    Source(String),
    /// NVRTC itself does not work.
    Nvrtc(String),
}

type Program = *mut c_void;
type Status = c_int;
const COMPILATION_ERROR: Status = 6;

impl Nvrtc {
    /// The first one found: `CUDA_PATH`, `CUDA_HOME`, `/usr/local/cuda`, the loader's path, the
    /// `nvidia/*/lib` folders of Python environments.
    ///
    /// Errors: one line that says what was tried.
    pub fn find() -> Result<Self, String> {
        let mut refused = BTreeSet::new();
        for path in candidates() {
            match Self::open(&path) {
                Ok(found) => return Ok(found),
                // Bare names are guesses; only a file that is there can be wrong.
                Err(why) if path.is_absolute() => _ = refused.insert(why),
                Err(_) => {}
            }
        }
        let mut message =
            "NVRTC is not in CUDA_PATH, CUDA_HOME, /usr/local/cuda, the loader's path \
                           or a Python environment"
                .to_owned();
        for why in refused {
            message += &format!("; {why}");
        }
        Err(message)
    }

    fn open(path: &Path) -> Result<Self, String> {
        let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let builtins = path.parent().map(builtins).unwrap_or_default();
        // SAFETY: loading runs the library's initialisers; this is NVIDIA's compiler, which has no
        // requirements on its host.
        let library = unsafe { Library::new(path) }.map_err(|e| at(&e))?;
        let mut version = (0, 0);
        // SAFETY: int nvrtcVersion(int *major, int *minor).
        let status = unsafe {
            let call = library
                .get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status>(b"nvrtcVersion")
                .map_err(|e| at(&e))?;
            call(&mut version.0, &mut version.1)
        };
        if status != 0 || version < OLDEST {
            let [found, oldest] =
                [version, OLDEST].map(|(major, minor)| format!("{major}.{minor}"));
            return Err(at(&format!("NVRTC {found} is too old, {oldest} or newer is needed")));
        }
        Ok(Self { path: path.to_owned(), version, library, _builtins: builtins })
    }

    /// Compiles `source` to PTX. `headers` are pairs (name in `#include "…"`, text).
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
        options: &[String],
    ) -> Result<String, Failure> {
        let nvrtc = |e: libloading::Error| Failure::Nvrtc(e.to_string());
        let program = self.create(name, source, headers)?;
        let options: Vec<_> = options.iter().map(|o| c_string(o)).collect::<Result<_, _>>()?;
        let option_ptrs: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: nvrtcCompileProgram(program, count, options); the program was just created.
        let status = unsafe {
            self.library
                .get::<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status>(
                    b"nvrtcCompileProgram",
                )
                .map_err(nvrtc)?(
                program, option_ptrs.len() as c_int, option_ptrs.as_ptr()
            )
        };
        let result = match status {
            0 => self.text(program, b"nvrtcGetPTXSize", b"nvrtcGetPTX"),
            _ => self.text(program, b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog").and_then(
                |log| match status {
                    COMPILATION_ERROR => Err(Failure::Source(log)),
                    _ => Err(Failure::Nvrtc(format!("NVRTC status {status}: {}", log.trim()))),
                },
            ),
        };
        let mut program = program;
        // SAFETY: nvrtcDestroyProgram(&program); nobody uses it afterwards.
        unsafe {
            self.library
                .get::<unsafe extern "C" fn(*mut Program) -> Status>(b"nvrtcDestroyProgram")
                .map_err(nvrtc)?(&mut program);
        }
        result
    }

    fn create(
        &self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
    ) -> Result<Program, Failure> {
        let (name, source) = (c_string(name)?, c_string(source)?);
        let names: Vec<_> = headers.iter().map(|h| c_string(h.0)).collect::<Result<_, _>>()?;
        let texts: Vec<_> = headers.iter().map(|h| c_string(h.1)).collect::<Result<_, _>>()?;
        let name_ptrs: Vec<_> = names.iter().map(|s| s.as_ptr()).collect();
        let text_ptrs: Vec<_> = texts.iter().map(|s| s.as_ptr()).collect();
        let mut program: Program = ptr::null_mut();
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> Status;
        // SAFETY: nvrtcCreateProgram(&program, source, name, count, texts, names) copies its strings.
        let status = unsafe {
            self.library
                .get::<Create>(b"nvrtcCreateProgram")
                .map_err(|e| Failure::Nvrtc(e.to_string()))?(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                headers.len() as c_int,
                text_ptrs.as_ptr(),
                name_ptrs.as_ptr(),
            )
        };
        match status {
            0 => Ok(program),
            _ => Err(Failure::Nvrtc(format!("nvrtcCreateProgram gave status {status}"))),
        }
    }

    /// A string that NVRTC hands out by a size call and a copy call; sizes count the final NUL.
    fn text(&self, program: Program, size: &[u8], get: &[u8]) -> Result<String, Failure> {
        let nvrtc = |e: libloading::Error| Failure::Nvrtc(e.to_string());
        let mut len = 0usize;
        // SAFETY: status size(program, size_t *len); status get(program, char *buffer), which fills
        // `len` bytes.
        unsafe {
            self.library
                .get::<unsafe extern "C" fn(Program, *mut usize) -> Status>(size)
                .map_err(nvrtc)?(program, &mut len);
            let mut buffer = vec![0u8; len + 1];
            self.library
                .get::<unsafe extern "C" fn(Program, *mut c_char) -> Status>(get)
                .map_err(nvrtc)?(program, buffer.as_mut_ptr().cast());
            let text = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
            Ok(text.to_string_lossy().into_owned())
        }
    }
}

fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::Source("the source holds a NUL byte".to_owned()))
}

/// Files and bare names to try, in order.
fn candidates() -> Vec<PathBuf> {
    let mut all = Vec::new();
    let roots = ["CUDA_PATH", "CUDA_HOME"].iter().filter_map(env::var_os).map(PathBuf::from);
    for root in roots.chain([PathBuf::from("/usr/local/cuda")]) {
        for folder in ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"] {
            all.extend(libraries(&root.join(folder), "libnvrtc.so"));
        }
    }
    all.push("libnvrtc.so".into());
    all.extend((OLDEST.0..=NEWEST_MAJOR).rev().map(|n| format!("libnvrtc.so.{n}").into()));
    for prefix in python_prefixes() {
        for folder in python_library_folders(&prefix) {
            all.extend(libraries(&folder, "libnvrtc.so"));
        }
    }
    all
}

/// The files of `folder` that are `stem` or `stem.VERSION`, the newest version first.
fn libraries(folder: &Path, stem: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = entries(folder)
        .into_iter()
        .filter_map(|path| {
            let version = path.file_name()?.to_str()?.strip_prefix(stem)?;
            let numbers: Vec<u32> = version.split('.').filter_map(|n| n.parse().ok()).collect();
            (version.is_empty() || version.starts_with('.')).then_some((numbers, path))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn builtins(folder: &Path) -> Vec<Library> {
    libraries(folder, "libnvrtc-builtins.so")
        .iter()
        // SAFETY: a data library of NVRTC without initialisers of its own.
        .filter_map(|path| unsafe { Library::new(path) }.ok())
        .collect()
}

/// Where Python environments may be: the active one, and those whose `python3` is on PATH.
fn python_prefixes() -> Vec<PathBuf> {
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(env::var_os).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path)
        .filter(|folder| folder.join("python3").exists())
        .filter_map(|folder| folder.parent().map(Path::to_owned));
    active.chain(on_path).collect()
}

/// `PREFIX/lib/python3.N/{site,dist}-packages/nvidia/*/lib`.
fn python_library_folders(prefix: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for python in entries(&prefix.join("lib")) {
        if !python.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")) {
            continue;
        }
        for packages in ["site-packages", "dist-packages"] {
            let wheels = entries(&python.join(packages).join("nvidia"));
            folders.extend(wheels.into_iter().map(|wheel| wheel.join("lib")));
        }
    }
    folders
}

/// The entries of a folder in order of name; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}
