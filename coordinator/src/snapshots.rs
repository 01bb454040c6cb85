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
    /// Record and bytes of the log when the latest was begun.
    begun: (u64, u64),
    /// Its size.
    size: u64,
    /// At most one; dropped with this.
    writing: JoinSet<Option<u64>>,
}

impl Snapshots {
    /// Snapshots of a log that is at its end; the latest is the one it was read from,
    /// whoever wrote it: coordinators that come and go add up.
    #[must_use]
    pub fn new(log: &Log) -> Self {
        Self {
            begun: (log.start().sequence, 0),
            size: log.start().size,
            ..Self::default()
        }
    }

    /// Begins to write a snapshot of `run`, the state after the last record, if one is
    /// due. Must be called in a Tokio runtime.
    pub fn keep_up(&mut self, log: &Log, run: &Run) {
        while let Some(done) = self.writing.try_join_next() {
            self.size = done.ok().flatten().unwrap_or(self.size);
        }
        let (record, grown) = self.begun;
        let due =
            log.last() - record >= LEAST_RECORDS && (log.grown() - grown) * SMALLER >= self.size;
        if !due || !self.writing.is_empty() {
            return;
        }
        self.begun = (log.last(), log.grown());
        let (log, run) = (log.clone(), run.clone());
        self.writing.spawn(async move {
            let written = log.snapshot(run).await;
            let say = |error| {
                tracing::warn!(%error, "cannot write a snapshot; the next start will take longer");
            };
            written.map_err(say).ok()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_artifacts::{Store, layout};

    #[tokio::test]
    async fn records_of_coordinators_that_come_and_go_add_up() {
        let store = Store::open("memory:").await.unwrap();
        for (writer, records, due) in [("a", 300, false), ("b", 300, true), ("c", 300, false)] {
            let (mut log, run) = Log::open(store.clone(), writer.to_owned()).await.unwrap();
            let mut snapshots = Snapshots::new(&log);
            for _ in 0..records {
                log.append(1, &[]).await.unwrap();
            }
            snapshots.keep_up(&log, &run);
            assert_eq!(!snapshots.writing.is_empty(), due, "{writer}");
            snapshots.writing.join_all().await;
        }
        let listed = store.list(layout::log_folder(), None).await.unwrap();
        let paths = listed.iter().map(|(path, _)| path.as_str());
        let found: Vec<u64> = paths.filter_map(layout::snapshot_sequence).collect();
        assert_eq!(found, [600]);
    }
}
