//! Recipes in TOML, and `--set` overrides.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/recipe/tests/outside_bytes/checks.rs"]
mod checks;

fuzz_target!(|bytes: &[u8]| checks::recipe(bytes));
