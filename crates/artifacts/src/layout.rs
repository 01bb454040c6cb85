//! Names of everything in a store, in one place. Owns no I/O.
//!
//! ```text
//! run.json
//! log/00000000000000000001 …            log/snapshot-00000000000000000001 …
//! corpus/<digest>/shard-00000.arrow …   manifest.json
//! checkpoints/00001234-<digest12>/…     manifest.json
//! generations/000001/embeddings/ index/ negatives/ runs/   manifest.json
//! ```

use crate::digest::Digest;

/// Name of the manifest that completes a folder.
pub const MANIFEST: &str = "manifest.json";

/// The run's document.
pub fn run_json() -> &'static str {
    "run.json"
}

/// Folder of the coordinator's log, without a final slash.
pub fn log_folder() -> &'static str {
    "log"
}

/// The coordinator's record number `sequence` (sorted as numbers are).
pub fn log_record(sequence: u64) -> String {
    format!("log/{sequence:020}")
}

/// Sequence number of a log record's path; `None` for anything else.
pub fn log_sequence(path: &str) -> Option<u64> {
    twenty_digits(path.strip_prefix("log/")?)
}

/// Snapshot of the coordinator's state after record `sequence`.
pub fn log_snapshot(sequence: u64) -> String {
    format!("log/snapshot-{sequence:020}")
}

/// Sequence number of a snapshot's path; `None` for anything else.
pub fn snapshot_sequence(path: &str) -> Option<u64> {
    twenty_digits(path.strip_prefix("log/snapshot-")?)
}

fn twenty_digits(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Folder of the prepared corpus with this digest.
pub fn corpus_folder(digest: &Digest) -> String {
    format!("corpus/{digest}")
}

/// Manifest of the prepared corpus with this digest.
pub fn corpus_manifest(digest: &Digest) -> String {
    format!("{}/{MANIFEST}", corpus_folder(digest))
}

/// Folder of all checkpoints, without a final slash.
pub fn checkpoints_folder() -> &'static str {
    "checkpoints"
}

/// Folder of the checkpoint of training step `step` whose model has `digest`.
pub fn checkpoint_folder(step: u64, digest: &Digest) -> String {
    format!("checkpoints/{step:08}-{}", digest.short())
}

/// Manifest of that checkpoint.
pub fn checkpoint_manifest(step: u64, digest: &Digest) -> String {
    format!("{}/{MANIFEST}", checkpoint_folder(step, digest))
}

/// Folder of all generations, without a final slash.
pub fn generations_folder() -> &'static str {
    "generations"
}

/// Folder of generation `generation`.
pub fn generation_folder(generation: u64) -> String {
    format!("generations/{generation:06}")
}

/// Folder of a generation's passage and query embeddings.
pub fn generation_embeddings(generation: u64) -> String {
    format!("{}/embeddings", generation_folder(generation))
}

/// Folder of a generation's index files.
pub fn generation_index(generation: u64) -> String {
    format!("{}/index", generation_folder(generation))
}

/// Folder of a generation's search results before they are merged.
pub fn generation_candidates(generation: u64) -> String {
    format!("{}/candidates", generation_folder(generation))
}

/// Folder of a generation's blocks of negatives.
pub fn generation_negatives(generation: u64) -> String {
    format!("{}/negatives", generation_folder(generation))
}

/// Folder of a generation's TREC runs.
pub fn generation_runs(generation: u64) -> String {
    format!("{}/runs", generation_folder(generation))
}

/// Manifest of generation `generation`.
pub fn generation_manifest(generation: u64) -> String {
    format!("{}/{MANIFEST}", generation_folder(generation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_ref::check_path;

    #[test]
    fn names_are_as_documented_and_safe() {
        let digest = Digest::of(b"abc");
        assert_eq!(log_record(7), "log/00000000000000000007");
        assert_eq!(
            checkpoint_folder(1234, &digest),
            "checkpoints/00001234-ba7816bf8f01"
        );
        assert_eq!(generation_manifest(1), "generations/000001/manifest.json");
        for path in [
            run_json().to_string(),
            log_record(u64::MAX),
            log_snapshot(0),
            corpus_manifest(&digest),
            checkpoint_manifest(0, &digest),
            generation_negatives(u64::MAX),
        ] {
            check_path(&path).unwrap();
        }
    }

    #[test]
    fn log_names_read_back_and_sort_as_numbers() {
        assert_eq!(log_sequence(&log_record(u64::MAX)), Some(u64::MAX));
        assert_eq!(snapshot_sequence(&log_snapshot(42)), Some(42));
        for path in [
            "log/7",
            "log/+0000000000000000007",
            "log/snapshot-1",
            "run.json",
        ] {
            assert_eq!(
                (log_sequence(path), snapshot_sequence(path)),
                (None, None),
                "{path}"
            );
        }
        assert_eq!(log_sequence(&log_snapshot(42)), None);
        assert!(log_record(9) < log_record(10) && log_record(u64::MAX) < log_snapshot(0));
    }
}
