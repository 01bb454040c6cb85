//! How fast training goes, in words for people.
//!
//! Owns: the progress line, every few seconds. Refuses: numbers that machines
//! read, which go to `--losses` and to the coordinator.

use crate::losses::StepLine;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(5);

/// Steps since the last progress line.
pub struct Pace {
    total: u64,
    batch_size: usize,
    since: Instant,
    steps: u64,
    losses: f64,
    idle_ms: f64,
}

impl Pace {
    /// Starts the clock; `total` steps of `batch_size` queries.
    #[must_use]
    pub fn new(total: u64, batch_size: usize) -> Self {
        Self {
            total,
            batch_size,
            since: Instant::now(),
            steps: 0,
            losses: 0.0,
            idle_ms: 0.0,
        }
    }

    /// Notes a step, and says so if it is time or the last one.
    pub fn note(&mut self, line: &StepLine) {
        self.steps += 1;
        self.losses += line.loss;
        self.idle_ms += line.idle_ms;
        let done = line.step + 1;
        let elapsed = self.since.elapsed();
        if elapsed < EVERY && done != self.total {
            return;
        }
        let steps = self.steps as f64;
        let seconds_a_step = elapsed.as_secs_f64() / steps;
        tracing::info!(
            "step {done}/{} loss {:.4} lr {:.2e} {:.1} pairs/s idle {:.1} ms generation {} staleness {} eta {:.0} s",
            self.total,
            self.losses / steps,
            line.lr,
            self.batch_size as f64 / seconds_a_step,
            self.idle_ms / steps,
            line.generation,
            line.staleness,
            self.total.saturating_sub(done) as f64 * seconds_a_step,
        );
        *self = Self::new(self.total, self.batch_size);
    }
}
