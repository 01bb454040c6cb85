//! The coordinator's log: records and snapshots.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../coordinator/tests/outside_bytes/checks.rs"]
mod checks;

fuzz_target!(|bytes: &[u8]| checks::log_record(bytes));
