//! Finds repeated ids among more of them than memory holds, and which of them came with another text.
//!
//! The 128-bit hash of each id goes with its ordinal and its text's hash into one of 256 buckets by its first byte; full
//! buckets spill to files. Equal ids meet in one bucket, and one bucket at a time is sorted. 32 bytes an id lie on disk;
//! in memory there are at most 4 MiB of unspilled entries, one bucket (1/8 byte an id), and one bit an id up to the last
//! duplicate.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::CorpusError;

const BUCKETS: usize = 256;
const BUCKET_ENTRIES: usize = 512;
const ENTRY_BYTES: usize = 32;

/// The hash of an id, how many came before it, and the hash of its text.
type Entry = (u128, u64, u64);

/// Takes ids one after another.
pub(super) struct DuplicateFinder {
    buckets: Vec<Vec<Entry>>,
    spilled: Option<TempDir>,
    parent: PathBuf,
    next: u64,
}

/// The ids that came again.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    repeated: Vec<u64>,
    /// All of them.
    pub(super) all: Repetitions,
    /// Those whose text is not that of the id's first occurrence.
    pub(super) changed: Repetitions,
}

/// How often ids came again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Repetitions {
    pub(super) count: u64,
    /// The earliest repetition: the ordinal of the id's first occurrence, and its own.
    pub(super) first: Option<(u64, u64)>,
}

impl Repetitions {
    fn add(&mut self, first: u64, again: u64) {
        self.count += 1;
        if self.first.is_none_or(|(_, earliest)| again < earliest) {
            self.first = Some((first, again));
        }
    }
}

impl DuplicateFinder {
    /// `parent` is the folder under which a temporary one is made if there are many ids.
    pub(super) fn new(parent: &Path) -> DuplicateFinder {
        DuplicateFinder {
            buckets: vec![Vec::new(); BUCKETS],
            spilled: None,
            parent: parent.to_path_buf(),
            next: 0,
        }
    }

    /// Ids taken so far: the ordinal of the next one.
    pub(super) fn len(&self) -> u64 {
        self.next
    }

    /// Takes an id with the hash of its text, or with 0 where texts are not compared.
    pub(super) fn insert(&mut self, id: &str, text: u64) -> Result<(), CorpusError> {
        let digest: [u8; 32] = Sha256::digest(id.as_bytes()).into();
        let bucket = digest[0] as usize;
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        self.buckets[bucket].push((u128::from_le_bytes(hash), self.next, text));
        self.next += 1;
        match self.buckets[bucket].len() {
            BUCKET_ENTRIES => self.spill(bucket),
            _ => Ok(()),
        }
    }

    fn spill(&mut self, bucket: usize) -> Result<(), CorpusError> {
        let dir = match &self.spilled {
            Some(dir) => dir,
            None => {
                let dir = tempfile::Builder::new()
                    .prefix(".ids-")
                    .tempdir_in(&self.parent);
                self.spilled
                    .insert(dir.map_err(CorpusError::io("write to", &self.parent))?)
            }
        };
        let path = dir.path().join(bucket.to_string());
        let mut bytes = Vec::with_capacity(BUCKET_ENTRIES * ENTRY_BYTES);
        for (hash, ordinal, text) in self.buckets[bucket].drain(..) {
            bytes.extend_from_slice(&hash.to_le_bytes());
            bytes.extend_from_slice(&ordinal.to_le_bytes());
            bytes.extend_from_slice(&text.to_le_bytes());
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(&bytes))
            .map_err(CorpusError::io("write", &path))
    }

    /// Compares all ids taken.
    pub(super) fn finish(mut self) -> Result<Duplicates, CorpusError> {
        let mut duplicates = Duplicates::default();
        for bucket in 0..BUCKETS {
            let mut entries = std::mem::take(&mut self.buckets[bucket]);
            if let Some(dir) = &self.spilled {
                let path = dir.path().join(bucket.to_string());
                if path.exists() {
                    load(&path, &mut entries).map_err(CorpusError::io("read", &path))?;
                }
            }
            entries.sort_unstable();
            for equal in entries.chunk_by(|one, two| one.0 == two.0) {
                let (_, first, text) = equal[0];
                for (_, again, other) in &equal[1..] {
                    duplicates.add(first, *again, *other != text);
                }
            }
        }
        Ok(duplicates)
    }
}

fn load(path: &Path, entries: &mut Vec<Entry>) -> std::io::Result<()> {
    let file = File::open(path)?;
    let many = file.metadata()?.len() as usize / ENTRY_BYTES;
    let mut reader = BufReader::new(file);
    entries.reserve(many);
    for _ in 0..many {
        let (mut hash, mut ordinal, mut text) = ([0; 16], [0; 8], [0; 8]);
        reader.read_exact(&mut hash)?;
        reader.read_exact(&mut ordinal)?;
        reader.read_exact(&mut text)?;
        entries.push((
            u128::from_le_bytes(hash),
            u64::from_le_bytes(ordinal),
            u64::from_le_bytes(text),
        ));
    }
    Ok(())
}

impl Duplicates {
    fn add(&mut self, first: u64, again: u64, changed: bool) {
        let word = (again / 64) as usize;
        if self.repeated.len() <= word {
            self.repeated.resize(word + 1, 0);
        }
        self.repeated[word] |= 1 << (again % 64);
        self.all.add(first, again);
        if changed {
            self.changed.add(first, again);
        }
    }

    /// Whether the id with this ordinal had come before.
    pub(super) fn contains(&self, ordinal: u64) -> bool {
        let word = self.repeated.get((ordinal / 64) as usize);
        word.is_some_and(|word| word >> (ordinal % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_repetitions_among_many_ids_through_spilled_buckets() {
        let dir = tempfile::tempdir().unwrap();
        let mut finder = DuplicateFinder::new(dir.path());
        let many = 600_000;
        for number in 0..many {
            // Every id is new but these: 70 000 repeats 3, 599 999 and 80 000 repeat 4.
            let id = match number {
                70_000 => 3,
                80_000 | 599_999 => 4,
                other => other,
            };
            // The second 4 comes with a text of its own.
            let text = u64::from(number == 80_000);
            finder.insert(&format!("passage-{id}"), text).unwrap();
        }
        assert!(finder.spilled.is_some());
        let duplicates = finder.finish().unwrap();
        assert_eq!(duplicates.all.first, Some((3, 70_000)));
        assert_eq!(duplicates.all.count, 3);
        assert_eq!(duplicates.changed.first, Some((4, 80_000)));
        assert_eq!(duplicates.changed.count, 1);
        let found: Vec<u64> = (0..many)
            .filter(|ordinal| duplicates.contains(*ordinal))
            .collect();
        assert_eq!(found, [70_000, 80_000, 599_999]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn few_ids_stay_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut finder = DuplicateFinder::new(dir.path());
        for id in ["a", "b", "c"] {
            finder.insert(id, 0).unwrap();
        }
        assert!(finder.spilled.is_none());
        assert_eq!(finder.finish().unwrap().all.count, 0);
    }
}
