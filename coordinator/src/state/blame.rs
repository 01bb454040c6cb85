//! Failed attempts: who gets the task next, and when its generation is given up.
//!
//! A worker that is never heard of again while at a task counts as a failure of that
//! task too, for the task may kill its workers. Whoever turns up again takes it back.
//! But machines are preempted and answers get lost, so losses are weaker evidence than
//! words: they count only towards [`MOST_ATTEMPTS`]. That goes for a lease of which no
//! heartbeat ever came as well: perhaps no worker heard of it, or it died at once.

use super::State;
use super::event::{Effect, LeaseKey, Timestamp};
use super::generation::Board;
use std::collections::BTreeSet;

/// Failures of one task that workers told of, after which the generation is given up,
/// whoever they were.
pub const MOST_FAILURES: usize = 3;
/// Failed attempts at one task, told of or lost, after which it is given up too.
pub const MOST_ATTEMPTS: usize = 5;
/// Attempts of different workers that are enough if no live worker is left to ask.
const FEWEST_WORKERS: usize = 2;
/// Pause before a task is tried again by a worker in whose hands it failed.
const RETRY_MS: u64 = 5_000;

/// One failed attempt at a task that is still to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The task.
    pub task: u32,
    /// Who tried.
    pub worker: String,
    /// Under this lease.
    pub lease: LeaseKey,
    /// When this became known.
    pub at: Timestamp,
    /// The worker's words; `None` if it was not heard of again.
    pub reason: Option<String>,
}

impl Board {
    /// Failed attempts at the task, in the order they became known.
    pub fn failures_of(&self, task: u32) -> impl Iterator<Item = &Failure> + Clone {
        self.failures.iter().filter(move |f| f.task == task)
    }

    /// Whether the task failed in the worker's hands.
    #[must_use]
    pub fn failed_with(&self, task: u32, worker: &str) -> bool {
        self.failures_of(task).any(|f| f.worker == worker)
    }

    /// What became of the attempts at a task that failed, in words.
    #[must_use]
    pub fn account_of(&self, task: u32) -> String {
        let work = &self.plan.tasks[task as usize].work;
        let count = self.failures_of(task).count();
        let told = self
            .failures_of(task)
            .filter_map(|f| Some((&f.worker, f.reason.as_ref()?)));
        match (told.last(), count) {
            (Some((worker, reason)), 1) => format!("{work} failed on {worker}: {reason}"),
            (Some((worker, reason)), _) => {
                format!("{work} failed {count} times, at last on {worker}: {reason}")
            }
            (None, _) => format!(
                "{count} workers vanished while at {work}; look at their logs for a lack of memory or disk"
            ),
        }
    }
}

impl State {
    /// Notes a failed attempt. Gives the generation up if it is one too many, so that
    /// a task that nobody can do does not hold up the next generation for ever.
    pub(super) fn blame(&mut self, failure: Failure, effects: &mut Vec<Effect>) {
        let task = failure.task;
        let (Some(board), Some(open)) = (self.board.as_mut(), self.run.open.as_ref()) else {
            return;
        };
        board.failures.push(failure);
        let (generation, reason) = (open.generation, board.account_of(task));
        if self.is_hopeless(task) {
            self.abort(generation, reason, effects);
        }
    }

    /// Whether a task failed too often, or in the hands of every live worker.
    fn is_hopeless(&self, task: u32) -> bool {
        let Some(board) = &self.board else {
            return false;
        };
        let told = board.failures_of(task).filter(|f| f.reason.is_some());
        let tellers: BTreeSet<&str> = told.clone().map(|f| f.worker.as_str()).collect();
        let by_all = self.fleet.seen.keys().all(|w| tellers.contains(w.as_str()));
        told.count() >= MOST_FAILURES
            || board.failures_of(task).count() >= MOST_ATTEMPTS
            || (by_all && tellers.len() >= FEWEST_WORKERS)
    }

    /// A worker was heard of under a lease that lapsed: it did not die of its task,
    /// which is returned.
    pub(super) fn acquit(&mut self, worker: &str, lease: LeaseKey) -> Option<u32> {
        let board = self.board.as_mut()?;
        let lapsed = |f: &Failure| f.reason.is_none() && f.lease == lease && f.worker == worker;
        let at = board.failures.iter().position(lapsed)?;
        Some(board.failures.remove(at).task)
    }

    /// A task that failed and that the worker should try before all others, so that it
    /// is soon known whether anybody can do it: one that failed only with others, or a
    /// while ago with everybody.
    pub(super) fn suspect(&self, now: Timestamp, worker: &str) -> Option<u32> {
        let board = self.board.as_ref()?;
        let suspects = board.failures.iter().map(|f| f.task);
        let suspects: BTreeSet<u32> = suspects.filter(|t| board.ready.contains(t)).collect();
        let everybody = |task| self.fleet.seen.keys().all(|w| board.failed_with(task, w));
        let rested = |task| {
            let mut failures = board.failures_of(task);
            failures.all(|f| now.since(f.at) >= RETRY_MS)
        };
        let again = |task| everybody(task) && rested(task);
        let due = |task: &u32| !board.failed_with(*task, worker) || again(*task);
        suspects.into_iter().find(due)
    }
}
