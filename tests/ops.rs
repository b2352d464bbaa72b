//! Operations against plain float64 loops, on every device and in every mode: shapes are data (`tests/cases/*.toml`),
//! numbers are fresh in each run.

mod conv;
mod small;

use rewire::{Device, Mode};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// The devices named in REWIRE_TEST_DEVICES; without it `cpu`, `cuda-host`, and `cuda` where there is one.
pub fn devices() -> Vec<Device> {
    match std::env::var("REWIRE_TEST_DEVICES") {
        Ok(names) => names.split(',').map(|name| Device::new(name).unwrap()).collect(),
        Err(_) => {
            let must = ["cpu", "cuda-host"].map(|name| Device::new(name).unwrap());
            must.into_iter().chain(Device::new("cuda")).collect()
        }
    }
}

/// Whether the environment has REWIRE_TEST_CASES=first: then the first case of each table is enough. For the runs that
/// hold each kernel against another schedule or a driver, and not each case against float64 once more.
pub fn first_only() -> bool {
    match std::env::var("REWIRE_TEST_CASES").as_deref() {
        Ok("first") => true,
        Ok("" | "all") | Err(_) => false,
        Ok(other) => panic!("REWIRE_TEST_CASES = {other}: must be all or first"),
    }
}

/// The `case` array of a table of `tests/cases`: all of them, or the first.
pub fn cases<C: DeserializeOwned>(text: &str) -> Vec<C> {
    let mut table: toml::Table = text.parse().unwrap();
    let cases: Vec<C> = table.remove("case").expect("case").try_into().unwrap();
    let count = if first_only() { 1 } else { cases.len() };
    cases.into_iter().take(count).collect()
}

/// Every device with every mode.
pub fn devices_and_modes() -> Vec<(Device, Mode)> {
    devices().into_iter().flat_map(|device| Mode::ALL.map(|mode| (device.clone(), mode))).collect()
}

/// Numbers of a seed that differs from run to run, but not in CI; see [`crate::seed`].
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self(crate::seed::fresh_seed())
    }

    /// 64 uniform bits (SplitMix64).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    pub fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }
}

/// ‖got − want‖ / ‖want‖; ‖got‖ where `want` is 0.
pub fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(&got, &want)| f64::from(got) - want));
    match norm(&mut want.iter().copied()) {
        0.0 => difference,
        scale => difference / scale,
    }
}

/// Fails with `what` where the relative error exceeds the tolerance; NaN exceeds it.
pub fn assert_close(what: impl Debug, got: &[f32], want: &[f64], tolerance: f64) {
    let error = relative_error(got, want);
    println!("{what:?}: error {error:.1e}");
    assert!(error <= tolerance, "{what:?}: error {error:.2e} > {tolerance:.0e}");
}
