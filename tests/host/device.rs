//! Memory, launches and options of the device.

use super::{Buffer, Place, both};
use rewire::device::host::{Host, HostOptions};
use rewire::device::{Device, Gpu, Launch, entry_points, launched};
use std::process::Command;

#[test]
fn one_name_is_one_device() {
    let device = Device::new("cuda-host").unwrap();
    assert_eq!(device, Device::new("cuda-host").unwrap());
    assert_eq!(device.to_string(), "cuda-host");
    assert_ne!(device, Device::Cpu);
}

#[test]
fn memory_is_aligned_poisoned_and_used_again() {
    let gpu = Host::new(HostOptions::default()).unwrap();
    let sizes = [1, 255, 256, 257, 5000, 3 << 20];
    let buffers: Vec<_> = sizes.iter().map(|&bytes| Buffer::new(&gpu, bytes)).collect();
    for (buffer, &bytes) in buffers.iter().zip(&sizes) {
        assert_eq!(buffer.ptr % 256, 0);
        assert_eq!(buffer.get::<u8>(), vec![0xff; bytes]);
        gpu.zero(buffer.ptr, bytes).unwrap();
    }
    let mut ranges: Vec<_> = buffers.iter().map(|b| (b.ptr, b.ptr + b.len as u64)).collect();
    ranges.sort();
    assert!(ranges.windows(2).all(|w| w[0].1 < w[1].0), "allocations touch each other");
    drop(buffers);
    // Poisoned again, also where the system has taken the pages back.
    for &bytes in &sizes {
        assert_eq!(Buffer::new(&gpu, bytes).get::<u8>(), vec![0xff; bytes]);
    }
    assert!(gpu.alloc(usize::MAX / 2).unwrap_err().to_string().contains("no room for"));
}

#[test]
fn a_freed_buffer_is_out_of_bounds() {
    for gpu in both() {
        let y = Buffer::new(&gpu, 512);
        let freed = gpu.alloc(1 << 21).unwrap();
        gpu.free(freed);
        let launch = Launch::new("relu_forward_f32").elements(10);
        // Far behind the start, where no other test allocates.
        let launch = launch.arg(&Place(freed + (1 << 20))).arg(&y).arg(&10i64);
        let text = launch.run(&gpu).unwrap_err().to_string();
        assert!(text.contains("outside every allocation"), "{text}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let gpu = Host::new(HostOptions::default()).unwrap();
            let n = 64;
            let x: Vec<f32> =
                (0..n * n).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect();
            let (a, c) = (Buffer::of(&gpu, &x), Buffer::new(&gpu, 4 * n * n));
            let launch = Launch::new("speed_global_gemm").grid(1, n as u32, 1);
            launch.arg(&a).arg(&a).arg(&c).arg(&(n as i32)).run(&gpu).unwrap();
            c.get::<u32>()
        })
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}

#[test]
fn without_checks_correct_kernels_give_the_same_bits() {
    let x: Vec<f32> = (0..1000).map(|i| i as f32 - 500.0).collect();
    let results = [true, false].map(|checks| {
        let gpu = Host::new(HostOptions { checks, ..HostOptions::default() }).unwrap();
        let (dx, dy) = (Buffer::of(&gpu, &x), Buffer::new(&gpu, 4000));
        let launch = Launch::new("relu_forward_f32").elements(1000);
        launch.arg(&dx).arg(&dy).arg(&1000i64).run(&gpu).unwrap();
        dy.get::<f32>()
    });
    assert_eq!(results[0], x.iter().map(|x| x.max(0.0)).collect::<Vec<_>>());
    assert_eq!(results[0], results[1]);
}

#[test]
fn without_checks_a_kernel_cannot_touch_the_process() {
    let gpu = Host::new(HostOptions { checks: false, ..HostOptions::default() }).unwrap();
    let mine = [7f32; 32];
    let launch =
        Launch::new("wrong_null_pointer").block(32, 1, 1).arg(&Place(mine.as_ptr() as u64));
    let text = launch.run(&gpu).unwrap_err().to_string();
    assert!(text.contains("store of 4 bytes") && text.contains("outside"), "{text}");
    assert_eq!(mine, [7.0; 32]);
}

#[test]
fn launches_are_recorded() {
    assert!(entry_points().contains(&"relu_forward_f32"));
    assert!(entry_points().iter().all(|n| !n.starts_with("wrong_") && !n.starts_with("twin_")));
    without_checks_correct_kernels_give_the_same_bits();
    assert!(launched().contains("relu_forward_f32"));

    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("launched");
    for _ in 0..2 {
        let mut test = Command::new(std::env::current_exe().unwrap());
        let name = "host::device::without_checks_correct_kernels_give_the_same_bits";
        test.args(["--exact", name]).env("REWIRE_LAUNCH_LOG", &log);
        assert!(test.output().unwrap().status.success());
    }
    // One line a name and process.
    assert_eq!(std::fs::read_to_string(log).unwrap(), "relu_forward_f32\nrelu_forward_f32\n");
}

#[test]
fn options_come_from_the_environment() {
    let run = |name: &str, value: &str| {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--ignored", "--exact", "host::device::print_options", "--nocapture"]);
        String::from_utf8(test.env(name, value).output().unwrap().stdout).unwrap()
    };
    let default = "HostOptions { schedule: Fifo, checks: true, budget: 4294967296, banks: None }";
    assert!(run("REWIRE_HOST_SCHEDULE", "").contains(default));
    assert!(run("REWIRE_HOST_SCHEDULE", "lifo").contains("schedule: Lifo"));
    assert!(run("REWIRE_HOST_CHECKS", "off").contains("checks: false"));
    assert!(run("REWIRE_HOST_BUDGET", "1000").contains("budget: 1000"));
    assert!(run("REWIRE_HOST_BANKS", "file").contains("banks: Some(\"file\")"));
    for name in ["REWIRE_HOST_SCHEDULE", "REWIRE_HOST_CHECKS", "REWIRE_HOST_BUDGET"] {
        assert!(run(name, "0").contains(&format!("{name} = 0: must be")));
    }
}

#[test]
#[ignore = "a part of options_come_from_the_environment, which starts it with settings"]
fn print_options() {
    match HostOptions::from_env() {
        Ok(options) => println!("{options:?}"),
        Err(error) => println!("{error}"),
    }
}
