//! What this processor can do at most, all threads together: the figures that floors of a layer's time are computed from.
//!
//! `machine/multiply_add` counts floating-point operations, two a multiply-add; `machine/read` bytes, by the size of what
//! a thread reads again and again: that of a first cache, of a second one, of a share of a third, and more.

use criterion::{BenchmarkId, Criterion, Throughput};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::hint::black_box;

/// Independent sums: two units of a latency of four, and some more. They fit 16 registers.
const SUMS: usize = 12;
/// Multiply-adds of each sum in a call.
const STEPS: usize = 1 << 20;
/// KiB that a thread reads in a call at least.
const READ: usize = 1 << 18;

pub fn machine(c: &mut Criterion) {
    let Some(lanes) = lanes() else { return };
    let mut group = c.benchmark_group("machine");
    let threads = rayon::current_num_threads();
    let operations = 2 * lanes * SUMS * STEPS * threads;
    group.throughput(Throughput::Elements(operations as u64));
    group.bench_function("multiply_add", |b| {
        b.iter(|| rayon::broadcast(|_| multiply_add(lanes)).into_iter().sum::<f32>());
    });
    for kib in [1 << 4, 1 << 10, 1 << 13, 1 << 18] {
        let floats = vec![1.0f32; threads * kib * 256];
        let passes = (READ / kib).max(1);
        group.throughput(Throughput::Bytes((4 * floats.len() * passes) as u64));
        group.bench_function(BenchmarkId::new("read", format!("{kib} KiB a thread")), |b| {
            b.iter(|| {
                let part = |thread: usize| &floats[thread * kib * 256..][..kib * 256];
                rayon::broadcast(|thread| read(lanes, part(thread.index()), passes))
                    .into_iter()
                    .sum::<f32>()
            });
        });
    }
    group.finish();
}

/// Floats of the widest vector that the kernels use here; none without multiply-add.
fn lanes() -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return Some(16);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Some(8);
        }
    }
    None
}

#[cfg(target_arch = "x86_64")]
fn multiply_add(lanes: usize) -> f32 {
    // SAFETY: `lanes` found the instructions.
    unsafe { if lanes == 16 { multiply_add_512() } else { multiply_add_256() } }
}

#[cfg(target_arch = "x86_64")]
fn read(lanes: usize, floats: &[f32], passes: usize) -> f32 {
    // SAFETY: `lanes` found the instructions.
    unsafe { if lanes == 16 { read_512(floats, passes) } else { read_256(floats, passes) } }
}

#[cfg(target_arch = "x86_64")]
macro_rules! limits {
    ($lanes:expr, $feature:literal, $multiply_add:ident, $read:ident,
     $zero:ident, $splat:ident, $fused:ident, $load:ident, $add:ident, $first:ident) => {
        #[target_feature(enable = $feature)]
        fn $multiply_add() -> f32 {
            let (a, b) = ($splat(black_box(0.5)), $splat(black_box(0.25)));
            let mut sums = [$zero(); SUMS];
            // Else all would be one sum.
            for sum in &mut sums {
                *sum = $splat(black_box(1.0));
            }
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = $fused(*sum, a, b);
                }
            }
            sums.into_iter().map(|sum| $first(sum)).sum()
        }

        #[target_feature(enable = $feature)]
        fn $read(floats: &[f32], passes: usize) -> f32 {
            let mut sums = [$zero(); 16];
            for _ in 0..passes {
                for chunk in floats.chunks_exact(16 * $lanes) {
                    for (sum, part) in sums.iter_mut().zip(chunk.chunks_exact($lanes)) {
                        // SAFETY: a vector of floats.
                        *sum = $add(*sum, unsafe { $load(part.as_ptr()) });
                    }
                }
            }
            sums.into_iter().map(|sum| $first(sum)).sum()
        }
    };
}

#[cfg(target_arch = "x86_64")]
limits!(
    16,
    "avx512f",
    multiply_add_512,
    read_512,
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_loadu_ps,
    _mm512_add_ps,
    _mm512_cvtss_f32
);
#[cfg(target_arch = "x86_64")]
limits!(
    8,
    "avx2,fma",
    multiply_add_256,
    read_256,
    _mm256_setzero_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_loadu_ps,
    _mm256_add_ps,
    _mm256_cvtss_f32
);

#[cfg(not(target_arch = "x86_64"))]
fn multiply_add(_: usize) -> f32 {
    0.0
}

#[cfg(not(target_arch = "x86_64"))]
fn read(_: usize, _: &[f32], _: usize) -> f32 {
    0.0
}
