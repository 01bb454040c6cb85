//! Counter-based randomness: every random draw of a run is a pure function of
//! the run's seed, what the draw is for, and two numbers that name the item.
//!
//! Owns: the keys and the uniform integers drawn under them. Refuses: any
//! generator with a state that outlives one item, so that a restart, another
//! thread count or a discarded batch cannot shift a later draw (law 4).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

/// What a draw is for. The words are part of the key: changing one changes runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The permutation of the training queries, by epoch.
    QueryOrder,
    /// Which judged passage is a query's target, by step and query.
    Positive,
    /// Which mined passages are a query's negatives, by step and query.
    Negatives,
    /// torch's generator for dropout, by step and micro-batch.
    Dropout,
}

impl Purpose {
    fn word(self) -> &'static [u8] {
        match self {
            Self::QueryOrder => b"query-order",
            Self::Positive => b"positive",
            Self::Negatives => b"negatives",
            Self::Dropout => b"dropout",
        }
    }
}

/// SHA-256 of `purpose ‖ 0 ‖ seed ‖ a ‖ b`, numbers as little-endian u64.
fn key(seed: u64, purpose: Purpose, a: u64, b: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(purpose.word());
    hash.update([0]);
    for number in [seed, a, b] {
        hash.update(number.to_le_bytes());
    }
    hash.finalize().into()
}

/// The seed of torch's generator for one micro-batch, not negative.
#[must_use]
pub fn dropout_seed(seed: u64, step: u64, micro: u64) -> i64 {
    let key = key(seed, Purpose::Dropout, step, micro);
    let mut word = [0; 8];
    word.copy_from_slice(&key[..8]);
    (u64::from_le_bytes(word) >> 1) as i64
}

/// A ChaCha8 stream for one item.
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of item `(a, b)` under `purpose`.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, a: u64, b: u64) -> Self {
        Self(ChaCha8Rng::from_seed(key(seed, purpose, a, b)))
    }

    /// A uniform integer in `0..n` without bias (Lemire 2019, arXiv 1805.10941);
    /// 0 for `n = 0`. Written out here so that no library update can change runs.
    pub fn below(&mut self, n: u64) -> u64 {
        let mut product = u128::from(self.0.next_u64()) * u128::from(n);
        if (product as u64) < n {
            let threshold = n.wrapping_neg() % n;
            while (product as u64) < threshold {
                product = u128::from(self.0.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }

    /// A uniformly random order of all of `items` (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// `count` distinct items, uniformly, in random order; all if there are fewer.
    pub fn sample<T: Copy>(&mut self, items: &[T], count: usize) -> Vec<T> {
        let mut pool = items.to_vec();
        let count = count.min(pool.len());
        for at in 0..count {
            let other = at + self.below((pool.len() - at) as u64) as usize;
            pool.swap(at, other);
        }
        pool.truncate(count);
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_every_part_of_the_key() {
        let first = |seed, purpose, a, b| Stream::new(seed, purpose, a, b).below(u64::MAX);
        let base = first(1, Purpose::Negatives, 2, 3);
        assert_eq!(base, first(1, Purpose::Negatives, 2, 3));
        assert_ne!(base, first(2, Purpose::Negatives, 2, 3));
        assert_ne!(base, first(1, Purpose::Positive, 2, 3));
        assert_ne!(base, first(1, Purpose::Negatives, 3, 3));
        assert_ne!(base, first(1, Purpose::Negatives, 2, 4));
    }

    #[test]
    fn sampling_is_without_replacement_and_takes_all_when_short() {
        let items: Vec<u32> = (0..10).collect();
        for item in 0..50 {
            let mut drawn = Stream::new(7, Purpose::Negatives, 0, item).sample(&items, 4);
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), 4);
        }
        let mut all = Stream::new(7, Purpose::Negatives, 0, 0).sample(&items, 99);
        all.sort_unstable();
        assert_eq!(all, items);
    }

    /// 20,000 draws of 3 from 12: each item is expected 5,000 times. The sum is
    /// χ² with 11 degrees of freedom times 9/11 (draws without replacement are
    /// negatively correlated); its 99.9 % point is below 31.26.
    #[test]
    fn negatives_are_uniform() {
        let items: Vec<usize> = (0..12).collect();
        let mut counts = [0_f64; 12];
        for step in 0..20_000 {
            for item in Stream::new(13, Purpose::Negatives, step, 5).sample(&items, 3) {
                counts[item] += 1.0;
            }
        }
        let expected = 5_000.0;
        let chi_squared: f64 = counts
            .iter()
            .map(|c| (c - expected).powi(2) / expected)
            .sum();
        assert!(chi_squared < 31.26, "χ² = {chi_squared}");
        assert!(chi_squared > 1.0, "suspiciously even: χ² = {chi_squared}");
    }
}
