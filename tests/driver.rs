//! The device `cuda`: on a GPU where there is one, and through a stub driver everywhere. The stub is
//! `tests/stub`, linked with the host runtime and the kernels of `cuda-host`; each test that needs it starts
//! this program again with the stub in the loader's path.

use rewire::device::{Arg, Device, Doctor, Gpu, Graph, KernelArg, Launch};
use rewire::{ErrorKind, Mode, Tape, Tensor, ops};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::{env, fs};

/// The folder with the stub's libraries, built once by a run.
fn stub() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stub");
        let libraries = folder.join("lib64");
        fs::create_dir_all(&libraries).unwrap();
        // The first name that is looked for, so that a driver of this machine is not found before it.
        link("tests/stub/libcuda.cpp", &libraries.join("libcuda.so"), true);
        link("tests/stub/libnvrtc.cpp", &libraries.join("libnvrtc.so"), false);
        folder
    })
}

/// Compiles one file to a shared library, with the host runtime inside or alone.
fn link(source: &str, library: &Path, with_host_runtime: bool) {
    // Another run of the tests may have the library open: it is replaced, not written over.
    let fresh = library.with_extension(std::process::id().to_string());
    let mut compiler = Command::new(env::var_os("CXX").unwrap_or_else(|| "g++".into()));
    compiler.current_dir(env!("CARGO_MANIFEST_DIR"));
    compiler.args(["-std=c++17", "-O1", "-Wall", "-Werror", "-fPIC", "-shared", "-o"]).arg(&fresh);
    if with_host_runtime {
        compiler.args(["-Ikernels", "-include", "kernels/host/shim.h", source]);
        // Its symbols must not be those of this program, which holds the same runtime.
        compiler.args(["-Wl,-Bsymbolic", "-Wl,--exclude-libs,ALL", "-Wl,--whole-archive"]);
        compiler.arg(concat!(env!("OUT_DIR"), "/librewire_host.a")).arg("-Wl,--no-whole-archive");
    } else {
        compiler.arg(source);
    }
    let output = compiler.output().expect("a C++17 compiler is needed for the tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(fresh, library).unwrap();
}

/// This program again, under the stub driver, with a cache of its own, running the tests of `filter`.
fn under_stub(cache: &Path, filter: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(filter).env("LD_LIBRARY_PATH", stub().join("lib64")).env("CUDA_PATH", stub());
    child.env("REWIRE_TEST_DEVICES", "cuda").env("REWIRE_CACHE", cache);
    child.envs(settings.iter().copied());
    child.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The number of tests that a run of this program passed.
fn passed(output: &Output) -> usize {
    let text = text(output);
    assert!(output.status.success(), "{text}");
    let line = text.lines().find(|l| l.starts_with("test result: ok.")).expect("a result line");
    line["test result: ok. ".len()..].split(' ').next().unwrap().parse().unwrap()
}

/// What the test `report` prints of one launch under these settings.
fn report_under(settings: &[(&str, &str)]) -> String {
    let cache = tempfile::tempdir().unwrap();
    let filter = ["--exact", "driver::report", "--ignored", "--nocapture"];
    let output = under_stub(cache.path(), &filter, settings);
    assert_eq!(passed(&output), 1);
    let text = text(&output);
    let line = text.lines().find_map(|line| line.split_once("report: "));
    line.unwrap_or_else(|| panic!("no report in {text}")).1.to_owned()
}

#[test]
#[ignore = "a part of other tests, which start it under the stub driver"]
fn report() {
    let launch = |device: Device| relu(&device, &[-1.0, 2.0]);
    match Device::new("cuda").and_then(launch) {
        Ok(y) => println!("report: {y:?}, auto is {}", Device::new("auto").unwrap()),
        Err(e) => println!("report: {e}, auto is {}", Device::new("auto").unwrap()),
    }
}

fn relu(device: &Device, x: &[f32]) -> rewire::Result<Vec<f32>> {
    let x = Tensor::from_vec(x.to_vec(), &[x.len()], device)?;
    ops::relu(&mut Tape::new(Mode::F32), &x)?.to_vec()
}

/// Each kernel through the driver, by one case of each table; `cuda-host` runs the others.
#[test]
fn driver_path() {
    let cache = tempfile::tempdir().unwrap();
    let log = cache.path().join("launches");
    let settings = [("REWIRE_TEST_CASES", "first"), ("REWIRE_LAUNCH_LOG", log.to_str().unwrap())];
    let output = under_stub(cache.path(), &["ops::", "driver::on_cuda::"], &settings);
    assert!(passed(&output) >= 5, "{}", text(&output));
    let log = fs::read_to_string(log).unwrap();
    let launched: BTreeSet<&str> = log.lines().collect();
    let all: BTreeSet<&str> = rewire::device::entry_points().iter().copied().collect();
    let never: Vec<_> = all.difference(&launched).collect();
    assert!(never.is_empty(), "entry points that no first case launches: {never:?}");
}

#[test]
fn a_driver_older_than_the_ptx_gets_what_this_machines_nvrtc_makes_once() {
    let cache = tempfile::tempdir().unwrap();
    let log = cache.path().join("log");
    let settings = [("STUB_CUDA_PTX", "8.0"), ("STUB_NVRTC_LOG", log.to_str().unwrap())];
    for _ in 0..2 {
        let output = under_stub(cache.path(), &["driver::on_cuda::"], &settings);
        assert!(passed(&output) > 3, "{}", text(&output));
        let compiled = fs::read_to_string(&log).unwrap();
        let elementwise: Vec<_> =
            compiled.lines().filter(|l| l.starts_with("elementwise.cu")).collect();
        let options = "--gpu-architecture=compute_80 -std=c++17 --fmad=false";
        assert_eq!(elementwise, [format!("elementwise.cu {options}")]);
    }
}

#[test]
fn a_driver_too_old_for_every_nvrtc_is_told_in_one_line() {
    let line = report_under(&[("STUB_CUDA_PTX", "7.0")]);
    assert!(line.starts_with("kernel elementwise: its PTX is by "), "{line}");
    assert!(line.contains("newer than this machine's driver (CUDA 13.0)"), "{line}");
}

#[test]
fn an_nvrtc_that_lacks_an_instruction_of_the_kernels_is_refused() {
    // The driver takes no PTX that may be embedded; no other NVRTC is found.
    let of = |version| {
        let hidden = [("VIRTUAL_ENV", ""), ("CONDA_PREFIX", ""), ("CUDA_HOME", ""), ("PATH", "")];
        let stub = [("STUB_CUDA_PTX", "8.0"), ("STUB_NVRTC_VERSION", version)];
        report_under(&[&hidden[..], &stub].concat())
    };
    let line = of("12.4");
    let want = "libnvrtc.so: NVRTC 12.4 is too old, 12.5 or newer is needed";
    assert!(line.starts_with("kernel elementwise: ") && line.contains(want), "{line}");
    assert_eq!(of("12.5"), "[0.0, 2.0], auto is cuda:0");
}

#[test]
fn what_the_kernels_cannot_run_on_is_an_error_and_auto_is_the_cpu() {
    let line = report_under(&[("STUB_CUDA_CAPABILITY", "7.5")]);
    let want = "device cuda:0: stub has compute capability 7.5, the kernels need 8.0 or newer";
    assert_eq!(line, format!("{want} (use --device cpu), auto is cpu"));
    let line = report_under(&[("STUB_CUDA_DEVICES", "0")]);
    let want = "device cuda:0: cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected";
    assert_eq!(line, format!("{want} (use --device cpu), auto is cpu"));
    assert_eq!(report_under(&[]), "[0.0, 2.0], auto is cuda:0");
}

#[test]
fn a_library_that_is_no_driver_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.cpp");
    fs::write(&empty, "").unwrap();
    link(empty.to_str().unwrap(), &folder.path().join("libcuda.so"), false);
    let line = report_under(&[("LD_LIBRARY_PATH", folder.path().to_str().unwrap())]);
    let want = "device cuda:0: the CUDA driver is too old: it has no cuInit; update it";
    assert_eq!(line, format!("{want} (use --device cpu), auto is cpu"));
}

#[test]
fn doctor_finds_what_is_there() {
    let doctor = Doctor::examine();
    let json = serde_json::to_value(&doctor).unwrap();
    assert_eq!(json["auto_device"], Device::new("auto").unwrap().to_string());
    assert_eq!(json["cuda_problem"].is_null(), Device::new("cuda").is_ok());
    assert_eq!(json["kernels"]["entry_points"], rewire::device::entry_points().len());
    assert_eq!(json["cuda_host"], true);
    for part in ["cuda_driver", "nvrtc"] {
        assert!(json[part]["version"].is_string() != json[part]["missing"].is_string(), "{json}");
    }
    let files = doctor.kernels.files;
    let built_with_nvrtc = doctor.kernels.built_by_nvrtc.is_some();
    assert_eq!(doctor.kernels.embedded_as_ptx, if built_with_nvrtc { files } else { 0 });
}

#[test]
fn a_bundle_with_ptx_that_its_driver_cannot_take_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let check = |versions: &[&str]| {
        let file = folder.path().join("program");
        let image: String = versions.iter().map(|v| format!("\0//\n.version {v}\n\0")).collect();
        fs::write(&file, image).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/bundle/ptx.sh");
        let output = Command::new("bash").arg(script).arg(&file).output().unwrap();
        (output.status.success(), text(&output))
    };
    assert_eq!(check(&["9.0", "8.5"]), (true, String::new()));
    let (done, why) = check(&["9.0", "9.1", "8.5"]);
    assert!(!done && why.contains("carries PTX 9.1, and driver 580 takes 9.0 at most"), "{why}");
    assert!(why.contains("pip install nvidia-cuda-nvrtc==13.0"), "{why}");
    assert!(check(&["10.0"]).1.contains("carries PTX 10.0"));
    assert!(check(&[]).1.contains("carries no PTX"));
}

#[test]
fn names_of_devices() {
    for name in ["cuda:", "cuda:x", "cuda:-1", "cuda0", "gpu", ""] {
        let error = Device::new(name).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Param { .. }), "{name}: {error}");
    }
    let error = Device::new("cuda:99").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Device { .. }), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
    if let Err(error) = Device::new("cuda") {
        assert!(error.to_string().starts_with("device cuda:0: "), "{error}");
        assert_eq!(Device::new("auto").unwrap(), Device::Cpu);
    }
}

#[test]
fn memory_that_is_cached_goes_back_before_memory_runs_out() {
    let filter = ["--exact", "driver::fills_the_memory", "--ignored"];
    let cache = tempfile::tempdir().unwrap();
    let output = under_stub(cache.path(), &filter, &[("STUB_CUDA_MEMORY", "4194304")]);
    assert_eq!(passed(&output), 1);
}

#[test]
#[ignore = "a part of another test, which starts it with a stub that has 4 MiB"]
fn fills_the_memory() {
    let Device::Gpu(gpu) = Device::new("cuda").unwrap() else { panic!("cuda is a GPU") };
    let first = gpu.alloc(3 << 20).unwrap();
    let error = gpu.alloc(2 << 20).unwrap_err().to_string();
    assert!(error.contains("2097152 bytes of memory: CUDA_ERROR_OUT_OF_MEMORY"), "{error}");
    gpu.free(first);
    gpu.free(gpu.alloc(2 << 20).unwrap());
    gpu.free(gpu.alloc(4 << 20).unwrap());
}

/// On `cuda` wherever it answers; where REWIRE_TEST_DEVICES names it, it must.
mod on_cuda {
    use super::*;

    /// A device address as a kernel's argument.
    struct Ptr(u64);

    impl KernelArg for Ptr {
        fn arg(&self) -> Arg {
            Arg::Ptr(self.0)
        }
    }

    fn cuda() -> Option<(Device, Arc<dyn Gpu>)> {
        let wanted =
            env::var("REWIRE_TEST_DEVICES").is_ok_and(|list| list.split(',').any(|d| d == "cuda"));
        match Device::new("cuda") {
            Ok(Device::Gpu(gpu)) => Some((Device::Gpu(gpu.clone()), gpu)),
            Err(e) if wanted => panic!("{e}"),
            _ => None,
        }
    }

    #[test]
    fn is_one_device_by_every_name() {
        let Some((device, _)) = cuda() else { return };
        assert_eq!(device, Device::new("cuda:0").unwrap());
        assert_eq!(device, Device::new("auto").unwrap());
        assert_eq!(device.to_string(), "cuda:0");
    }

    #[test]
    fn copies_arrive() {
        let Some((_, gpu)) = cuda() else { return };
        let (a, b) = (gpu.alloc(1000).unwrap(), gpu.alloc(1000).unwrap());
        let bytes: Vec<u8> = (0..1000).map(|i| i as u8).collect();
        gpu.upload(a, &bytes).unwrap();
        gpu.zero(b, 1000).unwrap();
        gpu.copy(b + 256, a, 500).unwrap();
        gpu.synchronize().unwrap();
        let mut got = vec![1; 1000];
        gpu.download(b, &mut got).unwrap();
        assert_eq!(got[..256], [0; 256]);
        assert_eq!(got[256..756], bytes[..500]);
        assert_eq!(got[756..], [0; 244]);
        gpu.free(a);
        gpu.free(b);
    }

    #[test]
    fn what_was_uploaded_may_change_at_once() {
        let Some((_, gpu)) = cuda() else { return };
        // More than the pinned blocks hold together, in one and in many pieces.
        const BYTES: usize = (17 << 20) + 5;
        let pattern = |i: usize| (i * 7 + i / 65_537) as u8;
        let want: Vec<u8> = (0..BYTES).map(pattern).collect();
        for piece in [BYTES, 300_001] {
            let ptr = gpu.alloc(BYTES).unwrap();
            let mut source = Vec::new();
            for start in (0..BYTES).step_by(piece) {
                source.clear();
                source.extend_from_slice(&want[start..BYTES.min(start + piece)]);
                gpu.upload(ptr + start as u64, &source).unwrap();
                source.fill(0xEE);
            }
            let mut got = vec![0; BYTES];
            gpu.download(ptr, &mut got).unwrap();
            assert!(got == want, "in pieces of {piece}");
            gpu.free(ptr);
        }
    }

    #[test]
    fn a_launch_that_cannot_be_is_an_error_that_names_the_kernel() {
        let Some((device, gpu)) = cuda() else { return };
        let error = Launch::new("no_such_kernel_f32").run(&*gpu).unwrap_err().to_string();
        assert_eq!(error, "kernel no_such_kernel_f32: no such entry point in kernels/*.cu");
        let launch = |block, shared| {
            let (x, y) = (gpu.alloc(4).unwrap(), gpu.alloc(4).unwrap());
            let launch = Launch::new("relu_forward_f32").block(block, 1, 1).shared(shared);
            let done =
                launch.arg(&Ptr(x)).arg(&Ptr(y)).arg(&0i64).run(&*gpu).map_err(|e| e.to_string());
            gpu.free(x);
            gpu.free(y);
            done
        };
        let error = launch(2048, 0).unwrap_err();
        assert!(error.starts_with("kernel relu_forward_f32: CUDA_ERROR_INVALID_VALUE"), "{error}");
        assert!(error.contains("block [2048, 1, 1]"), "{error}");
        assert!(launch(32, 1 << 20).unwrap_err().contains("1048576 bytes of shared memory"));
        launch(32, 96 << 10).unwrap();
        assert_eq!(relu(&device, &[-1.0, 3.0]).unwrap(), [0.0, 3.0]);
    }

    #[test]
    fn static_and_dynamic_shared_memory_count_together() {
        let Some((_, gpu)) = cuda() else { return };
        let (x, mask, state, bins) =
            (Ptr(gpu.alloc(4).unwrap()), Ptr(0), Ptr(0), Ptr(gpu.alloc(8192).unwrap()));
        // 8 KiB are the kernel's own: with 40 KiB more it needs no opt-in, with more it does.
        for dynamic in [40 << 10, 41 << 10, 48 << 10, 64 << 10] {
            let launch = Launch::new("topk_histogram_f32")
                .shared(dynamic)
                .arg(&x)
                .arg(&mask)
                .arg(&state)
                .arg(&bins);
            let launch = launch.arg(&0).arg(&0).arg(&2).arg(&2).arg(&0).arg(&1).arg(&0i64);
            launch.run(&*gpu).unwrap();
        }
        gpu.synchronize().unwrap();
        gpu.free(x.0);
        gpu.free(bins.0);
    }

    #[test]
    fn a_graph_replays_what_it_recorded() {
        // A size that no other test uses: the pool is everybody's.
        const BYTES: usize = 7_777_777;
        let Some((device, gpu)) = cuda() else { return };
        let values = |ptr: u64| -> [f32; 3] {
            let mut values = [f32::NAN; 3];
            gpu.download(ptr, bytemuck::bytes_of_mut(&mut values)).unwrap();
            values
        };
        let (x, y) = (gpu.alloc(BYTES).unwrap(), gpu.alloc(BYTES).unwrap());
        gpu.upload(y, bytemuck::bytes_of(&[7.0f32; 3])).unwrap();
        // y = (max(x0, 0), max(x1, 0), 0), by way of memory that the recording takes and gives back.
        let (graph, hidden) = Graph::record(&device, || {
            let hidden = gpu.alloc(BYTES)?;
            let relu = Launch::new("relu_forward_f32").arg(&Ptr(x)).arg(&Ptr(hidden)).arg(&3i64);
            relu.run(&*gpu)?;
            gpu.zero(y, 12)?;
            gpu.copy(y, hidden, 8)?;
            gpu.free(hidden);
            assert_eq!(gpu.alloc(BYTES)?, hidden, "the recording uses its memory again");
            gpu.free(hidden);
            Ok(hidden)
        })
        .unwrap();
        assert_eq!(values(y), [7.0; 3], "nothing ran yet");
        let others: Vec<_> = (0..8).map(|_| gpu.alloc(BYTES).unwrap()).collect();
        assert!(!others.contains(&hidden), "its memory stays its own");
        for input in [[-1.0f32, 2.0, 3.0], [5.0, -6.0, 7.0]] {
            gpu.upload(x, bytemuck::bytes_of(&input)).unwrap();
            graph.launch().unwrap();
            assert_eq!(values(y), [input[0].max(0.0), input[1].max(0.0), 0.0]);
        }
        gpu.free(x);
        let other = gpu.alloc(BYTES).unwrap();
        assert_ne!(other, x, "what the graph reads stays while it may run");
        drop(graph);
        let again = [gpu.alloc(BYTES).unwrap(), gpu.alloc(BYTES).unwrap()];
        assert!(again.contains(&hidden) && again.contains(&x));
        for ptr in others.into_iter().chain(again).chain([other, y]) {
            gpu.free(ptr);
        }
    }

    #[test]
    fn a_recording_that_fails_leaves_the_device_usable() {
        let Some((device, _)) = cuda() else { return };
        let error = Graph::record(&device, || relu(&device, &[1.0])).err().unwrap().to_string();
        assert_eq!(error, "device cuda:0: upload while a graph is recorded");
        assert_eq!(relu(&device, &[-1.0, 5.0]).unwrap(), [0.0, 5.0]);
        assert!(Graph::record(&Device::Cpu, || Ok(())).is_err());
    }
}
