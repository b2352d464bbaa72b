//! Every function against plain float64 loops, on every instruction set of the machine.

mod bf16;
mod conv;
mod gather;
mod lanes;
mod nhwc;
mod norm;
mod planes;
mod pool;
mod sparse;
mod winograd;

/// Numbers in [-1, 1) of a seed that differs from run to run, but not in CI.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(crate::rng::seed::fresh_seed())
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }
}

/// ‖got − want‖ / ‖want‖; plain norm of the difference where `want` is 0.
fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(&got, &want)| f64::from(got) - want));
    match norm(&mut want.iter().copied()) {
        0.0 => difference,
        scale => difference / scale,
    }
}

/// Poison for outputs: what a function leaves unwritten shows.
fn unwritten(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

fn check(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    let error = error(got, want);
    assert!(error <= tolerance, "{what}: error {error:.2e} > {tolerance:.0e}");
}
