//! Every document of a store: manifests, `run.json`, the version log.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/artifacts/tests/outside_bytes/checks.rs"]
mod checks;

fuzz_target!(|bytes: &[u8]| checks::manifests(bytes));
