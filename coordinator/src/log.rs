//! The durable log: numbered records in the artifact store, each written only
//! if its number is free.
//!
//! Keeps law 6: whoever creates record n+1 is the writer; a zombie finds its
//! next number taken and is told so. A record holds all changes of one batch
//! (group commit), so it is there as a whole or not at all. Snapshots shorten
//! the replay and are never needed for it.

use crate::state::{Change, Run};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use quarry_artifacts::{ArtifactError, Created, Store, aside, layout};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version of the form of records and snapshots.
const VERSION: u32 = 1;
/// Records read at once while taking over.
const READS: usize = 64;
/// Bytes of a log whose snapshot takes milliseconds to encode.
const LARGE: u64 = 1 << 20;

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record<C = Vec<Change>> {
    /// Version of this form.
    pub version: u32,
    /// Its number, from 1.
    pub sequence: u64,
    /// Fencing number of its writer.
    pub epoch: u64,
    /// Who wrote it, unique to a process.
    pub writer: String,
    /// What happened, in order.
    pub changes: C,
}

/// The durable state after a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot<R> {
    version: u32,
    sequence: u64,
    run: R,
}

/// Why the log cannot be read or written.
#[derive(Debug, Error)]
pub enum LogError {
    /// Another coordinator took over (law 6).
    #[error(
        "log record {sequence} was written by another coordinator, so this one must stop; keep one coordinator to a store"
    )]
    Fenced {
        /// The record.
        sequence: u64,
    },
    /// The log holds what no coordinator of this version writes.
    #[error(
        "log record {path} is damaged: {reason}; restore it from a backup, or begin the run in a new store"
    )]
    Damaged {
        /// Path in the store.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] ArtifactError),
}

/// The log, open at its end.
#[derive(Debug, Clone)]
pub struct Log {
    store: Store,
    writer: String,
    /// Number of the next record.
    next: u64,
    /// The snapshot that the replay began with, or record 0.
    start: Start,
    /// Bytes of the records after it, read or written.
    grown: u64,
}

/// Where a replay began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start {
    /// The record whose snapshot it was; 0 if there was none.
    pub sequence: u64,
    /// Bytes of the snapshot.
    pub size: u64,
}

impl Log {
    /// Reads the log of `store` to its end and returns the run it tells of. The
    /// first [`Log::append`] then decides who is the writer.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if a record is missing or unreadable, or the store fails.
    pub async fn open(store: Store, writer: String) -> Result<(Self, Run), LogError> {
        let listed = store.list(layout::log_folder(), None).await?;
        let paths = || listed.iter().map(|(path, _)| path.as_str());
        let last = paths().filter_map(layout::log_sequence).max().unwrap_or(0);
        let snapshots: Vec<u64> = paths().filter_map(layout::snapshot_sequence).collect();
        let (mut run, start) = latest_snapshot(&store, snapshots).await?;
        let from = start.sequence;
        let store_of_reads = &store;
        let mut records = stream::iter(from + 1..=last)
            .map(|sequence| read(store_of_reads, sequence))
            .buffered(READS);
        let (mut sequence, mut grown) = (from, 0);
        while let Some(found) = records.try_next().await? {
            sequence += 1;
            let (record, size) = found.ok_or_else(|| damaged(sequence, "it is missing"))?;
            grown += size;
            for change in &record.changes {
                run.evolve(change);
            }
        }
        drop(records);
        let next = last.max(from) + 1;
        let log = Self {
            store,
            writer,
            next,
            start,
            grown,
        };
        Ok((log, run))
    }

    /// Reads the records that others have written since into `run`; returns how
    /// many there were.
    ///
    /// # Errors
    /// As [`Log::open`]; what was read until then is in `run`.
    pub async fn follow(&mut self, run: &mut Run) -> Result<u64, LogError> {
        let first = self.next;
        while let Some((record, size)) = read(&self.store, self.next).await? {
            self.grown += size;
            for change in &record.changes {
                run.evolve(change);
            }
            self.next += 1;
        }
        Ok(self.next - first)
    }

    /// Looks whether the next record is there already, so that a writer with nothing
    /// to write learns too that it is one no longer.
    ///
    /// # Errors
    /// [`LogError::Fenced`] if it is, or the store fails.
    pub async fn check_unfenced(&self) -> Result<(), LogError> {
        let sequence = self.next;
        match self.store.head(&layout::log_record(sequence)).await? {
            Some(_) => Err(LogError::Fenced { sequence }),
            None => Ok(()),
        }
    }

    /// Makes `changes` durable as one record; returns its number.
    ///
    /// # Errors
    /// [`LogError::Fenced`] if the number is taken by someone else. After a
    /// store's failure the same call may be made again: it is the same record.
    pub async fn append(&mut self, epoch: u64, changes: &[Change]) -> Result<u64, LogError> {
        let sequence = self.next;
        let record = Record {
            version: VERSION,
            sequence,
            epoch,
            writer: self.writer.clone(),
            changes,
        };
        let path = layout::log_record(sequence);
        let bytes = encode(&path, &record)?;
        let size = bytes.len() as u64;
        match self.store.create(&path, bytes).await? {
            Created::Yes => {
                self.next += 1;
                self.grown += size;
                Ok(sequence)
            }
            Created::Exists => Err(LogError::Fenced { sequence }),
        }
    }

    /// Number of the last record.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// The snapshot that the replay began with.
    #[must_use]
    pub fn start(&self) -> Start {
        self.start
    }

    /// Bytes of the records after it.
    #[must_use]
    pub fn grown(&self) -> u64 {
        self.grown
    }

    /// Writes a snapshot of `run`, the state after the last record; returns its size.
    ///
    /// # Errors
    /// If the store fails; nothing is lost then but time at the next start.
    pub async fn snapshot(&self, run: Run) -> Result<u64, LogError> {
        let sequence = self.last();
        let path = layout::log_snapshot(sequence);
        let snapshot = Snapshot {
            version: VERSION,
            sequence,
            run,
        };
        let (named, large) = (path.clone(), self.start.size + self.grown > LARGE);
        let bytes = aside(large, move || encode(&named, &snapshot)).await?;
        let size = bytes.len() as u64;
        self.store.create(&path, bytes).await?;
        Ok(size)
    }
}

/// The newest snapshot that can be read, and which it is; an empty run after record 0
/// if there is none.
async fn latest_snapshot(store: &Store, mut sequences: Vec<u64>) -> Result<(Run, Start), LogError> {
    sequences.sort_unstable();
    for sequence in sequences.into_iter().rev() {
        let path = layout::log_snapshot(sequence);
        let Some(bytes) = store.get_raw(&path).await? else {
            continue;
        };
        match serde_json::from_slice::<Snapshot<Run>>(&bytes) {
            Ok(snapshot) if (snapshot.version, snapshot.sequence) == (VERSION, sequence) => {
                let size = bytes.len() as u64;
                return Ok((snapshot.run, Start { sequence, size }));
            }
            Ok(_) => tracing::warn!(path, "ignoring a snapshot of another version"),
            Err(error) => tracing::warn!(path, %error, "ignoring a damaged snapshot"),
        }
    }
    Ok((Run::default(), Start::default()))
}

/// Record `sequence` and its bytes, if it is there.
async fn read(store: &Store, sequence: u64) -> Result<Option<(Record, u64)>, LogError> {
    let Some(bytes) = store.get_raw(&layout::log_record(sequence)).await? else {
        return Ok(None);
    };
    let record: Record =
        serde_json::from_slice(&bytes).map_err(|e| damaged(sequence, &e.to_string()))?;
    if (record.version, record.sequence) != (VERSION, sequence) {
        let (version, number) = (record.version, record.sequence);
        let reason = format!("it says it is record {number} of version {version}");
        return Err(damaged(sequence, &reason));
    }
    Ok(Some((record, bytes.len() as u64)))
}

fn damaged(sequence: u64, reason: &str) -> LogError {
    LogError::Damaged {
        path: layout::log_record(sequence),
        reason: reason.replace(char::is_control, " "),
    }
}

fn encode<T: Serialize>(path: &str, value: &T) -> Result<Bytes, LogError> {
    let bytes = serde_json::to_vec(value).map_err(|e| LogError::Damaged {
        path: path.to_owned(),
        reason: e.to_string(),
    })?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_snapshot_of_a_large_log_is_encoded_beside_the_requests() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let store = Store::open("memory:").await.unwrap();
            let opened = Log::open(store, "a".to_owned()).await;
            let (mut log, run) = opened.unwrap();
            // The only other thread is taken until `release` goes.
            let (release, released) = std::sync::mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || released.recv());
            log.append(1, &[]).await.unwrap();
            log.snapshot(run.clone()).await.unwrap();
            log.append(1, &[]).await.unwrap();
            log.grown = LARGE + 1;
            let mut large = std::pin::pin!(log.snapshot(run));
            assert!(futures::poll!(&mut large).is_pending());
            drop(release);
            large.await.unwrap();
        });
    }
}
