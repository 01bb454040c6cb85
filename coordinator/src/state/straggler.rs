//! Stragglers: attempts that take much longer than their like, which others may make too.
//!
//! Owns what counts as one. It is asked at every event while workers wait, so leases are
//! looked at from the oldest on, and only those old enough to count.

use super::State;
use super::event::Timestamp;
use super::held::Held;

/// A backup attempt starts beyond this multiple of the median duration …
const STRAGGLER_RATIO: f64 = 1.5;
/// … once this share of the tasks of the same kind is done.
const STRAGGLER_SHARE: f64 = 0.75;
/// … and never before the task has taken this long: short ones end by themselves.
const STRAGGLER_LEAST_MS: u64 = 5_000;

impl State {
    /// The oldest straggler's task that the worker could try too.
    pub(super) fn straggler(&self, now: Timestamp, worker: &str) -> Option<u32> {
        let board = self.board.as_ref()?;
        let free = |held: &&Held| held.worker != worker && !board.failed_with(held.task, worker);
        Some(self.stragglers(now).find(free)?.task)
    }

    /// Leases on tasks whose only attempt takes much longer than its like did, oldest
    /// first.
    pub(super) fn stragglers(&self, now: Timestamp) -> impl Iterator<Item = &Held> {
        let limits = self.straggler_limits();
        let least = limits.iter().map(|(_, ms)| *ms).min_by(f64::total_cmp);
        let age = move |held: &Held| now.since(held.granted) as f64;
        let old = move |held: &&Held| least.is_some_and(|least| age(held) > least);
        let slow = move |held: &&Held| {
            let board = self.board.as_ref();
            board.is_some_and(|board| {
                let kind = board.plan.tasks[held.task as usize].work.kind();
                let limit = limits.iter().find(|(k, _)| *k == kind);
                limit.is_some_and(|(_, ms)| age(held) > *ms) && board.holders(held.task) == 1
            })
        };
        let oldest_first = self.fleet.leases.oldest_first();
        oldest_first.take_while(old).filter(slow)
    }

    /// Kinds of work most of which is done, each with the milliseconds beyond which an
    /// attempt counts as straggling.
    fn straggler_limits(&self) -> Vec<(&'static str, f64)> {
        let stages = self.board.iter().flat_map(|board| board.stages());
        let mostly_done =
            stages.filter(|(_, done, all)| f64::from(*done) >= STRAGGLER_SHARE * f64::from(*all));
        let limit = |kind| {
            let median = self.fleet.median_ms(kind)? as f64;
            // The least counts from there, the multiple only beyond.
            let least = STRAGGLER_LEAST_MS as f64 - 0.5;
            Some((kind, least.max(STRAGGLER_RATIO * median)))
        };
        mostly_done.filter_map(|(kind, ..)| limit(kind)).collect()
    }
}
