//! The seed of the tests' random numbers, in the library too.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

/// `REWIRE_TEST_SEED`; without it 1 where `CI` is set, and the clock's elsewhere. It is printed, so that a test that fails
/// names it.
pub fn fresh_seed() -> u64 {
    let seed = match (env::var("REWIRE_TEST_SEED"), env::var_os("CI")) {
        (Ok(seed), _) => seed.parse().expect("REWIRE_TEST_SEED is a whole number"),
        (Err(_), Some(_)) => 1,
        (Err(_), None) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
    };
    println!("REWIRE_TEST_SEED={seed}");
    seed
}
