//! Pauses between attempts: doubling, bounded, with seeded jitter. Owns no
//! clock and no loop; callers decide what is worth another attempt.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A series of growing pauses. Each is drawn between half and all of its bound
/// ("equal jitter"), so that a fleet that failed together returns apart; equal
/// seeds give equal pauses.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
    random: ChaCha8Rng,
}

impl Backoff {
    /// Pauses from `first` up to `longest`, jittered by `seed` (a worker's id,
    /// say).
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self {
            first,
            longest,
            attempts: 0,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The next pause, and one attempt more on the count.
    pub fn next_pause(&mut self) -> Duration {
        let bound = self
            .first
            .saturating_mul(1 << self.attempts.min(30))
            .min(self.longest);
        self.attempts = self.attempts.saturating_add(1);
        bound.mul_f64(self.random.random_range(0.5..=1.0))
    }

    /// Pauses handed out since the start or the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Starts again from the first pause, after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    #[test]
    fn pauses_double_within_their_bounds_and_stop_growing() {
        let mut backoff = Backoff::new(FIRST, LONGEST, 7);
        for attempt in 0..100_u32 {
            let bound = FIRST.saturating_mul(1 << attempt.min(20)).min(LONGEST);
            let pause = backoff.next_pause();
            assert!(
                pause >= bound / 2 && pause <= bound,
                "{attempt}: {pause:?} of {bound:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next_pause() <= FIRST);
        assert_eq!(backoff.attempts(), 1);
    }

    #[test]
    fn equal_seeds_pause_equally_and_others_do_not() {
        let series = |seed| {
            let mut backoff = Backoff::new(FIRST, LONGEST, seed);
            (0..8).map(|_| backoff.next_pause()).collect::<Vec<_>>()
        };
        assert_eq!(series(1), series(1));
        assert_ne!(series(1), series(2));
    }
}
