//! Recipes: TOML, then `--set` assignments, separated by NUL.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rewire::run::Recipe;
use std::path::Path;

fuzz_target!(|text: &str| {
    let mut parts = text.split('\0');
    let toml = parts.next().unwrap_or_default();
    let assignments: Vec<String> = parts.map(str::to_owned).collect();
    if let Ok(recipe) = Recipe::parse(Path::new("r.toml"), toml, &assignments) {
        // A run folder records it and goes on from there.
        let again = Recipe::parse(Path::new("r.toml"), &recipe.text().unwrap(), &[]);
        assert_eq!(again.unwrap(), recipe);
    }
});
