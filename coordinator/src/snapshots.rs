//! When a snapshot of the log is due, and the one that is being written.
//!
//! Keeps the cost of all snapshots in proportion to the log: the state of a large open
//! generation is many megabytes, so the larger the latest snapshot, the more records
//! come before the next. Requests do not wait for it. Refuses: being needed; a snapshot
//! that fails costs time at the next start.

use crate::log::Log;
use crate::state::Run;
use tokio::task::JoinSet;

/// Fewest records between two snapshots.
const LEAST_RECORDS: u64 = 512;
/// What is replayed after a snapshot may be this many times smaller than it.
const SMALLER: u64 = 4;

/// The snapshots of one coordinator.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Record and bytes written when the latest was begun.
    begun: (u64, u64),
    /// Its size.
    size: u64,
    /// At most one; dropped with this.
    writing: JoinSet<Option<u64>>,
}

impl Snapshots {
    /// Snapshots of a log that is at its end.
    #[must_use]
    pub fn new(log: &Log) -> Self {
        Self {
            begun: (log.last(), log.written()),
            ..Self::default()
        }
    }

    /// Begins to write a snapshot of `run`, the state after the last record, if one is
    /// due. Must be called in a Tokio runtime.
    pub fn keep_up(&mut self, log: &Log, run: &Run) {
        while let Some(done) = self.writing.try_join_next() {
            self.size = done.ok().flatten().unwrap_or(self.size);
        }
        let (record, written) = self.begun;
        let due = log.last() - record >= LEAST_RECORDS
            && (log.written() - written) * SMALLER >= self.size;
        if !due || !self.writing.is_empty() {
            return;
        }
        self.begun = (log.last(), log.written());
        let (log, run) = (log.clone(), run.clone());
        self.writing.spawn(async move {
            let written = log.snapshot(&run).await;
            let say = |error| {
                tracing::warn!(%error, "cannot write a snapshot; the next start will take longer");
            };
            written.map_err(say).ok()
        });
    }
}
