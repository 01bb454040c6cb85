//! Which queries a step trains on.
//!
//! Owns: the order of the queries, epoch by epoch, and its consecutive slices.
//! Every query comes exactly once an epoch, every batch is full, and the queries
//! of a batch are distinct, also where it straddles two epochs. Refuses: a batch
//! larger than the training set, which would have to repeat a query.

use crate::random::{Purpose, Stream};
use std::collections::BTreeSet;
use thiserror::Error;

/// The training set cannot fill a batch of distinct queries.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "train.batch_size {batch_size} is more than the {queries} training queries, so a batch would repeat a query; lower train.batch_size"
)]
pub struct BatchTooLarge {
    /// Queries of a batch.
    pub batch_size: usize,
    /// Training queries.
    pub queries: usize,
}

/// The order of the training queries: a pure function of seed, number of queries
/// and batch size. Keeps the epoch it last worked in.
pub struct QueryOrder {
    seed: u64,
    queries: usize,
    batch_size: usize,
    epoch: u64,
    order: Vec<u32>,
}

impl QueryOrder {
    /// The order of `queries` queries in batches of `batch_size`.
    ///
    /// # Errors
    /// [`BatchTooLarge`].
    pub fn new(seed: u64, queries: usize, batch_size: usize) -> Result<Self, BatchTooLarge> {
        if batch_size > queries || batch_size == 0 {
            return Err(BatchTooLarge {
                batch_size,
                queries,
            });
        }
        let order = permutation(seed, queries, 0);
        Ok(Self {
            seed,
            queries,
            batch_size,
            epoch: 0,
            order,
        })
    }

    /// The queries of step `step` (from 0), `[batch_size]`, all distinct: the
    /// slice from `step × batch_size` of the epochs' orders laid end to end.
    pub fn batch(&mut self, step: u64) -> Vec<u32> {
        let start = u128::from(step) * self.batch_size as u128;
        let epoch = (start / self.queries as u128) as u64;
        let from = (start % self.queries as u128) as usize;
        self.move_to(epoch);
        let to = (from + self.batch_size).min(self.queries);
        let mut batch = self.order[from..to].to_vec();
        let missing = self.batch_size - batch.len();
        if missing > 0 {
            self.move_to(epoch + 1);
            batch.extend_from_slice(&self.order[..missing]);
        }
        batch
    }

    fn move_to(&mut self, epoch: u64) {
        if epoch < self.epoch || epoch > self.epoch + 1 {
            self.epoch = self.base(epoch);
            self.order = permutation(self.seed, self.queries, self.epoch);
        }
        while self.epoch < epoch {
            self.advance();
        }
    }

    /// The epoch from whose plain permutation `epoch` can be reached: a swap or a
    /// resume late in the run must not pay for all the epochs before it.
    ///
    /// Epochs that begin with a batch are plain permutations, and they recur. And an
    /// epoch depends on the one before only through its last, incomplete batch,
    /// which is plain too if it lies behind the first `batch_size` places, the only
    /// ones that change (see [`Self::advance`]).
    fn base(&self, epoch: u64) -> u64 {
        let period = (self.batch_size / gcd(self.queries, self.batch_size)) as u64;
        let aligned = epoch - epoch % period;
        match self.queries >= 2 * self.batch_size {
            true => aligned.max(epoch.saturating_sub(1)),
            false => aligned,
        }
    }

    /// The next epoch's order: its own permutation, in which queries that would
    /// repeat inside the straddling batch change places with the first ones that
    /// do not. At most `tail` queries can repeat, so `free` stays below
    /// `head + tail = batch_size`.
    fn advance(&mut self) {
        let next = self.epoch + 1;
        let mut order = permutation(self.seed, self.queries, next);
        let start = u128::from(next) * self.queries as u128;
        let tail = (start % self.batch_size as u128) as usize;
        if tail > 0 {
            let head = self.batch_size - tail;
            let taken: BTreeSet<u32> = self.order[self.queries - tail..].iter().copied().collect();
            let mut free = head;
            for at in 0..head {
                if taken.contains(&order[at]) {
                    while taken.contains(&order[free]) {
                        free += 1;
                    }
                    order.swap(at, free);
                    free += 1;
                }
            }
        }
        self.epoch = next;
        self.order = order;
    }
}

fn permutation(seed: u64, queries: usize, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..queries as u32).collect();
    Stream::new(seed, Purpose::QueryOrder, epoch, 0).shuffle(&mut order);
    order
}

/// Greatest common divisor (Euclid).
fn gcd(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        b => gcd(b, a % b),
    }
}

/// Steps of a run: `max_steps`, or as many as `epochs` passes need when it is 0.
#[must_use]
pub fn total_steps(max_steps: u64, epochs: f64, queries: usize, batch_size: usize) -> u64 {
    match max_steps {
        0 => (epochs * queries as f64 / batch_size as f64).ceil() as u64,
        steps => steps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn total_steps_rounds_up() {
        assert_eq!(total_steps(0, 1.0, 100, 32), 4);
        assert_eq!(total_steps(0, 2.0, 64, 32), 4);
        assert_eq!(total_steps(0, 0.5, 100, 10), 5);
        assert_eq!(total_steps(7, 9.0, 100, 10), 7);
    }

    #[test]
    fn a_batch_larger_than_the_training_set_is_refused() {
        let message = QueryOrder::new(1, 5, 6).err().unwrap().to_string();
        assert!(message.contains("train.batch_size 6"), "{message}");
    }

    proptest! {
        /// Distinct queries in every batch, every query once an epoch, and the
        /// same batch however it is reached.
        #[test]
        fn batches_are_distinct_and_epochs_complete(
            seed in 0_u64..50, queries in 1_usize..40, size in 1_usize..40,
        ) {
            prop_assume!(size <= queries);
            let mut order = QueryOrder::new(seed, queries, size).unwrap();
            let steps = (9 * queries).div_ceil(size) as u64;
            let mut stream = Vec::new();
            for step in 0..steps {
                let batch = order.batch(step);
                let distinct: BTreeSet<u32> = batch.iter().copied().collect();
                prop_assert_eq!(distinct.len(), size);
                let mut fresh = QueryOrder::new(seed, queries, size).unwrap();
                prop_assert_eq!(&fresh.batch(step), &batch);
                stream.extend(batch);
            }
            for epoch in stream.chunks_exact(queries) {
                let distinct: BTreeSet<u32> = epoch.iter().copied().collect();
                prop_assert_eq!(distinct.len(), queries);
            }
            // Back again, from the last epoch.
            let first = stream[..size].to_vec();
            prop_assert_eq!(order.batch(0), first);
        }
    }
}
