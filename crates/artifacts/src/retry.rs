//! Another attempt for requests a store did not answer. Owns the bounds: a
//! handful of attempts within seconds; longer outages are the caller's to see.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::error::{ArtifactError, Result};

/// How often and how patiently to repeat a request that may yet succeed.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// Pause after the first attempt; doubles each time.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(3),
        }
    }
}

impl Retry {
    /// Runs `request` until it succeeds, fails for good, or attempts run out.
    ///
    /// # Errors
    /// The last attempt's error.
    pub async fn run<T, F>(&self, what: &str, mut request: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut attempt = 1;
        loop {
            match request().await {
                // The client has asked for a role several times itself.
                Err(error @ ArtifactError::NoCredentials { .. }) => return Err(error),
                Err(error) if error.is_retryable() && attempt < self.attempts => {
                    tracing::warn!(what, attempt, %error, "store request failed, trying again");
                    self.pause(attempt).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Sleeps before attempt `attempt + 1`: between half and all of the doubled
    /// pause, so that a fleet that failed together does not return together.
    pub(crate) async fn pause(&self, attempt: u32) {
        let doubled = self
            .first_pause
            .saturating_mul(1 << attempt.saturating_sub(1).min(16));
        let pause = doubled.min(self.longest_pause);
        let jitter = (RandomState::new().hash_one(attempt) % 1000) as f64 / 1000.0;
        tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * jitter)).await;
    }
}
