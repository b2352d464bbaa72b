//! The kernels that are embedded in this build. Sources are always embedded, PTX only where `build.rs` found NVRTC. Without
//! embedded PTX, this machine's NVRTC makes it on first use, and it is kept in a cache on disk.

use super::nvrtc::{Failure, Nvrtc};
use super::source;
use crate::{Error, Result, file};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::{env, fs};

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// One file `kernels/NAME.cu`.
pub struct KernelFile {
    /// File name without extension.
    pub name: &'static str,
    /// CUDA C++.
    pub source: &'static str,
    /// Names of its `extern "C" __global__` functions.
    pub entry_points: &'static [&'static str],
    /// (architecture, PTX).
    pub ptx: &'static [(&'static str, &'static str)],
}

/// The entry points of all kernels of the product, sorted.
pub fn entry_points() -> &'static [&'static str] {
    include!(concat!(env!("OUT_DIR"), "/entry_points.rs"))
}

/// The file that defines the entry point `name`.
pub(super) fn file_of(name: &str) -> Result<&'static KernelFile> {
    static FILES: OnceLock<HashMap<&str, &KernelFile>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        KERNELS.iter().flat_map(|file| file.entry_points.iter().map(move |&e| (e, file))).collect()
    });
    files
        .get(name)
        .copied()
        .ok_or_else(|| Error::kernel(name, "no such entry point in kernels/*.cu"))
}

/// This machine's NVRTC, looked for once.
pub(super) fn nvrtc() -> std::result::Result<&'static Nvrtc, &'static str> {
    static FOUND: OnceLock<std::result::Result<Nvrtc, String>> = OnceLock::new();
    FOUND.get_or_init(Nvrtc::find).as_ref().map_err(String::as_str)
}

impl KernelFile {
    /// The architecture to use on a device of this compute capability: `sm_90a` code runs on 9.0 alone.
    pub(super) fn arch(&self, capability: (i32, i32)) -> &'static str {
        let exact = format!("sm_{}{}a", capability.0, capability.1);
        source::architectures(self.source)
            .into_iter()
            .find(|arch| **arch == exact)
            .unwrap_or(source::BASE_ARCH)
    }

    /// PTX that was made when this crate was built.
    pub(super) fn embedded(&self, arch: &str) -> Option<&'static str> {
        self.ptx.iter().find(|(a, _)| *a == arch).map(|(_, ptx)| *ptx)
    }

    /// PTX by this machine's NVRTC, out of the cache if it is there.
    ///
    /// Errors: [`crate::ErrorKind::Kernel`] without NVRTC, or with its log.
    pub(super) fn compile(&self, arch: &str) -> Result<String> {
        let failed = |why: &str| Error::kernel(self.name, why.trim());
        let nvrtc = nvrtc().map_err(|why| {
            failed(&format!("this build holds no PTX that the driver accepts, and {why}"))
        })?;
        let options = source::options(self.source, arch);
        let cached = cache_folder().map(|folder| folder.join(self.cache_name(nvrtc, &options)));
        if let Some(ptx) = cached.as_ref().and_then(|file| fs::read_to_string(file).ok()) {
            return Ok(ptx);
        }
        let ptx = nvrtc
            .compile(&format!("{}.cu", self.name), self.source, HEADERS, &options)
            .map_err(|failure| match failure {
                Failure::Source(why) | Failure::Nvrtc(why) => failed(&why),
            })?;
        if let Some(file) = cached {
            // A cache that cannot be written costs time, not the result; `doctor` reports it.
            let _ = fs::create_dir_all(file.parent().unwrap_or(&file))
                .map(|()| file::write_bytes(&file, ptx.as_bytes()));
        }
        Ok(ptx)
    }

    /// Differs whenever the PTX could: source, headers, options with the architecture, NVRTC's version.
    fn cache_name(&self, nvrtc: &Nvrtc, options: &[String]) -> String {
        let mut hash = Sha256::new();
        let texts = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
        for part in texts.chain([self.source]).chain(options.iter().map(String::as_str)) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(nvrtc.version.0.to_le_bytes());
        hash.update(nvrtc.version.1.to_le_bytes());
        let hex: String = hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect();
        format!("{}-{hex}.ptx", self.name)
    }
}

/// Where compiled kernels are kept: `$REWIRE_CACHE`, else `$XDG_CACHE_HOME/rewire`, else
/// `~/.cache/rewire`.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("REWIRE_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("rewire")))
        .or_else(|| Some(set("HOME")?.join(".cache/rewire")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_for_one_architecture_is_chosen_there_only() {
        let file = |source| KernelFile { name: "a", source, entry_points: &[], ptx: &[] };
        let special = file("// nvrtc: sm_90a\n");
        assert_eq!(special.arch((9, 0)), "sm_90a");
        assert_eq!(special.arch((8, 9)), "compute_80");
        assert_eq!(special.arch((10, 0)), "compute_80");
        assert_eq!(file("").arch((9, 0)), "compute_80");
    }

    #[test]
    fn every_entry_point_has_its_file() {
        for name in entry_points() {
            assert!(file_of(name).unwrap().entry_points.contains(name));
        }
        assert!(file_of("absent_f32").is_err());
    }
}
