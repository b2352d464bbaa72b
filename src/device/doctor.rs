//! What this machine and this build can do, for `rewire doctor`.

use super::cuda::{self, CudaDevice};
use super::kernels;
use serde::Serialize;

/// The findings. Looking never fails: what is missing is `None` or says why.
#[derive(Debug, Clone, Serialize)]
pub struct Doctor {
    /// This crate's version.
    pub version: String,
    /// What `--device auto` takes.
    pub auto_device: String,
    /// Processors that this process may use.
    pub threads: usize,
    /// Instruction sets of the processor that matter here.
    pub cpu_features: Vec<String>,
    /// The driver.
    pub cuda_driver: Finding,
    /// Its devices, also those that are too old for the kernels.
    pub cuda_devices: Vec<CudaDevice>,
    /// Why `cuda` cannot be used, if so.
    pub cuda_problem: Option<String>,
    /// NVRTC on this machine.
    pub nvrtc: Finding,
    /// How this build carries its kernels.
    pub kernels: Kernels,
    /// Whether this build has the device `cuda-host`.
    pub cuda_host: bool,
    /// Where compiled kernels are kept.
    pub cache: Option<String>,
}

/// A component that was found in some version, or is missing.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Finding {
    /// The component answers.
    Found {
        /// CUDA version, e.g. `13.0`.
        version: String,
        /// The file, where it is known.
        path: Option<String>,
    },
    /// The component does not answer.
    Missing {
        /// Why, in one line.
        missing: String,
    },
}

/// The kernels inside this build.
#[derive(Debug, Clone, Serialize)]
pub struct Kernels {
    /// Files of `kernels/`.
    pub files: usize,
    /// Their entry points.
    pub entry_points: usize,
    /// Files that are embedded as PTX; the others are compiled on first use.
    pub embedded_as_ptx: usize,
    /// The version of the NVRTC that made the PTX.
    pub built_by_nvrtc: Option<String>,
}

impl Doctor {
    /// Examines the machine and this build.
    pub fn examine() -> Self {
        let version = |(major, minor): (i32, i32)| format!("{major}.{minor}");
        let cuda = cuda::open(0);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            auto_device: if cuda.is_ok() { "cuda:0" } else { "cpu" }.to_owned(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_features: cpu_features(),
            cuda_driver: match cuda::driver_version() {
                Ok(found) => Finding::Found { version: version(found), path: None },
                Err(why) => Finding::Missing { missing: why.to_owned() },
            },
            cuda_devices: cuda::devices().unwrap_or_default(),
            cuda_problem: cuda.err().map(|e| e.to_string()),
            nvrtc: match kernels::nvrtc() {
                Ok(found) => Finding::Found {
                    version: version(found.version),
                    path: Some(found.path.display().to_string()),
                },
                Err(why) => Finding::Missing { missing: why.to_owned() },
            },
            kernels: Kernels {
                files: kernels::KERNELS.len(),
                entry_points: kernels::entry_points().len(),
                embedded_as_ptx: kernels::KERNELS.iter().filter(|k| !k.ptx.is_empty()).count(),
                built_by_nvrtc: kernels::BUILT_BY.map(str::to_owned),
            },
            cuda_host: cfg!(feature = "cuda-host"),
            cache: kernels::cache_folder().map(|folder| folder.display().to_string()),
        }
    }
}

/// The processor's model, where the system says it; else its architecture.
pub(crate) fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let name = model.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim().to_owned());
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<String> {
    macro_rules! detected {
        ($($name:tt),*) => {
            [$(($name, std::arch::is_x86_feature_detected!($name))),*]
        };
    }
    let all = detected!("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512bf16");
    let found = all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name.to_owned());
    // The macro does not know it yet.
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let amx = info.split_whitespace().find(|flag| *flag == "amx_bf16").map(str::to_owned);
    found.chain(amx).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<String> {
    vec![std::env::consts::ARCH.to_owned()]
}
