//! What the checks cost: `cargo test --release host::speed -- --ignored --nocapture`.

use super::Buffer;
use rewire::device::Launch;
use rewire::device::host::{Host, HostOptions};
use std::time::Instant;

/// Million operations a second of a launch, the best of five.
fn rate(gpu: &Host, launch: &Launch, operations: f64) -> f64 {
    let seconds = |_| {
        let start = Instant::now();
        launch.run(gpu).unwrap();
        start.elapsed().as_secs_f64()
    };
    operations / (0..5).map(seconds).fold(f64::INFINITY, f64::min) / 1e6
}

#[test]
#[ignore = "a measurement"]
fn products_a_second() {
    for checks in [true, false] {
        let gpu = &Host::new(HostOptions { checks, ..HostOptions::default() }).unwrap();
        let n = 128;
        let one = half::bf16::ONE.to_bits();
        let (a, b) = (Buffer::of(gpu, &vec![1f32; n * n]), Buffer::of(gpu, &vec![1f32; n * n]));
        let (ha, hb) = (Buffer::of(gpu, &vec![one; n * n]), Buffer::of(gpu, &vec![one; n * n]));
        let c = Buffer::new(gpu, 4 * n * n);
        let gemm = |name, x: &Buffer<'_>, y: &Buffer<'_>| {
            Launch::new(name).arg(x).arg(y).arg(&c).arg(&(n as i32))
        };
        let macs = (n * n * n) as f64;
        let scalar = gemm("speed_scalar_gemm", &a, &b).grid(4, 4, 1).block(32, 32, 1);
        println!("checks {checks}: scalar, shared memory: {:.0} MMAC/s", rate(gpu, &scalar, macs));
        assert_eq!(c.get::<f32>(), vec![n as f32; n * n]);
        let global = gemm("speed_global_gemm", &a, &b).grid(1, n as u32, 1).block(256, 1, 1);
        println!("checks {checks}: scalar, global memory: {:.0} MMAC/s", rate(gpu, &global, macs));
        assert_eq!(c.get::<f32>(), vec![n as f32; n * n]);
        let mma = gemm("speed_mma_gemm", &ha, &hb).grid(4, 4, 1).block(128, 1, 1);
        println!("checks {checks}: mma: {:.0} MMAC/s", rate(gpu, &mma, macs));
        assert_eq!(c.get::<f32>(), vec![n as f32; n * n]);
        let empty = Launch::new("speed_empty").grid(1000, 1, 1).block(256, 1, 1);
        println!("checks {checks}: {:.1} M empty threads/s", rate(gpu, &empty, 256e3));
        let one = Launch::new("speed_empty").grid(1, 1, 1).block(32, 1, 1);
        println!("checks {checks}: {:.3} M small launches/s", rate(gpu, &one, 1.0));
    }
}
