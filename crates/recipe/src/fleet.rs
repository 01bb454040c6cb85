//! `[fleet]`: processes and threads when one machine runs everything.

use serde::{Deserialize, Serialize};

/// `[fleet]`. Threads are fixed for each process: libtorch collapses when two
/// processes fight for the same cores, and a thread count is part of what makes
/// a run repeat bitwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fleet {
    /// Inferencers started by `quarry run`.
    pub workers: usize,
    /// Threads of the trainer; 0 takes the cores the workers leave, at least 1.
    pub trainer_threads: usize,
    /// Threads of each inferencer; 0 shares out half the cores, at least 1 each.
    pub worker_threads: usize,
    /// Seconds without a heartbeat after which a lease is given to another.
    pub lease_seconds: u64,
    /// GiB of local cache of each process.
    pub cache_gib: f64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            workers: 1,
            trainer_threads: 0,
            worker_threads: 0,
            lease_seconds: 20,
            cache_gib: 8.0,
        }
    }
}

impl Fleet {
    /// Takes the numbers of threads from `other` where this leaves them open.
    pub fn fill_threads(&mut self, other: &Self) {
        for (ours, theirs) in [
            (&mut self.trainer_threads, other.trainer_threads),
            (&mut self.worker_threads, other.worker_threads),
        ] {
            if *ours == 0 {
                *ours = theirs;
            }
        }
    }

    /// Threads of each worker on a machine with `cores` cores.
    #[must_use]
    pub fn threads_of_worker(&self, cores: usize) -> usize {
        match self.worker_threads {
            0 => (cores / 2 / self.workers.max(1)).max(1),
            n => n,
        }
    }

    /// Threads of the trainer on a machine with `cores` cores.
    #[must_use]
    pub fn threads_of_trainer(&self, cores: usize) -> usize {
        match self.trainer_threads {
            0 => cores
                .saturating_sub(self.workers * self.threads_of_worker(cores))
                .max(1),
            n => n,
        }
    }
}
