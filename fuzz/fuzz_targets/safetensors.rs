//! Embeddings in safetensors.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/corpus/tests/outside_bytes/checks.rs"]
#[allow(dead_code)]
mod checks;

/// Holds the file that is read; removed by scripts/fuzz.
static FOLDER: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a folder for the input"));

fuzz_target!(|bytes: &[u8]| checks::safetensors(FOLDER.path(), bytes));
