//! How far a task is and whether it should stop: written by the thread that
//! computes, read by the heartbeats beside it.
//!
//! Refuses: clocks and rates; those belong to the log line of the task.

use crate::error::{Result, TaskError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared by clones: one task, one `Progress`.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// Sets the number of items of the task and starts from none.
    pub fn begin(&self, total: usize) {
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(total as u64, Ordering::Relaxed);
    }

    /// Counts `items` more as done. Tasks call this after each batch.
    ///
    /// # Errors
    /// [`TaskError::Cancelled`] once the task has been cancelled.
    pub fn advance(&self, items: usize) -> Result<()> {
        self.0.done.fetch_add(items as u64, Ordering::Relaxed);
        self.check()
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`TaskError::Cancelled`] once the task has been cancelled.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(TaskError::Cancelled);
        }
        Ok(())
    }

    /// Asks the task to stop at its next batch.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`Progress::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Items of the task, as given to [`Progress::begin`].
    #[must_use]
    pub fn items(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// Share of the items that is done, 0 to 1.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        let done = self.0.done.load(Ordering::Relaxed);
        (done as f64 / self.items().max(1) as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fraction_counts_items_and_stays_below_one() {
        let progress = Progress::default();
        assert_eq!(progress.fraction(), 0.0);
        progress.begin(4);
        progress.advance(1).unwrap();
        assert_eq!(progress.fraction(), 0.25);
        progress.advance(9).unwrap();
        assert_eq!(progress.fraction(), 1.0);
    }

    #[test]
    fn a_cancelled_task_stops_at_its_next_batch() {
        let progress = Progress::default();
        progress.begin(2);
        progress.advance(1).unwrap();
        progress.clone().cancel();
        assert!(matches!(progress.advance(1), Err(TaskError::Cancelled)));
    }
}
