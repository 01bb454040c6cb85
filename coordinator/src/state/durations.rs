//! How long finished attempts took, with the median at hand.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Durations in milliseconds. Kept as the half below the median, largest first, and the
/// rest, smallest first, so that one more costs the same after a million.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    below: BinaryHeap<u64>,
    rest: BinaryHeap<Reverse<u64>>,
}

impl Durations {
    pub(super) fn learn(&mut self, ms: u64) {
        if self.median().is_some_and(|median| ms < median) {
            self.below.push(ms);
        } else {
            self.rest.push(Reverse(ms));
        }
        // The median of n is number n / 2, counted from 0: so many lie below.
        let half = (self.below.len() + self.rest.len()) / 2;
        if self.below.len() > half {
            self.rest.extend(self.below.pop().map(Reverse));
        } else if self.below.len() < half {
            self.below.extend(self.rest.pop().map(|Reverse(ms)| ms));
        }
    }

    /// The upper median; `None` before the first.
    #[must_use]
    pub fn median(&self) -> Option<u64> {
        self.rest.peek().map(|Reverse(ms)| *ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_that_of_the_sorted_durations() {
        let mut durations = Durations::default();
        let mut sorted = vec![];
        assert_eq!(durations.median(), None);
        for n in 0..500u64 {
            let ms = n * 7919 % 101; // in no order, many of them equal
            durations.learn(ms);
            sorted.push(ms);
            sorted.sort_unstable();
            assert_eq!(durations.median(), Some(sorted[sorted.len() / 2]), "{n}");
        }
    }
}
