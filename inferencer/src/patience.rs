//! Outlasting a coordinator that is away: which answers are worth another
//! attempt, how long to wait between attempts, how often to say so.
//!
//! Refuses: giving up. A refusal the coordinator meant is handed back at once.

use quarry_service::retry::Backoff;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};

/// Bound of the wait before the second attempt.
const FIRST: Duration = Duration::from_millis(100);
/// Bound of the longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(5);
/// The absence is repeated in the log this often.
const REMIND: Duration = Duration::from_secs(30);

/// Whether the same call may succeed once the coordinator is back.
pub(crate) fn is_absence(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Aborted
            | Code::Internal
            | Code::ResourceExhausted
    )
}

/// Repeats `call` until the coordinator answers it. The absence is said once
/// and then every 30 s, and so is the return.
///
/// # Errors
/// The coordinator's refusal, if that is its answer.
pub(crate) async fn until_answered<T, Fut>(
    what: &str,
    mut call: impl FnMut() -> Fut,
) -> Result<T, Status>
where
    Fut: Future<Output = Result<T, Status>>,
{
    let started = Instant::now();
    let mut said: Option<Instant> = None;
    let mut backoff = Backoff::new(FIRST, LONGEST, u64::from(std::process::id()));
    loop {
        let status = match call().await {
            Ok(answer) => {
                if said.is_some() {
                    let away_seconds = started.elapsed().as_secs();
                    tracing::info!(away_seconds, "the coordinator is back");
                }
                return Ok(answer);
            }
            Err(status) if is_absence(&status) => status,
            Err(status) => return Err(status),
        };
        if said.is_none_or(|at| at.elapsed() >= REMIND) {
            said = Some(Instant::now());
            let reason = status.message();
            tracing::warn!(
                what,
                reason,
                "the coordinator does not answer; trying again until it does"
            );
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn an_absent_coordinator_is_outlasted_and_a_refusal_is_not() {
        let attempts = Cell::new(0);
        let call = || {
            attempts.set(attempts.get() + 1);
            let answer = match attempts.get() {
                1..=3 => Err(Status::unavailable("connection refused")),
                n => Ok(n),
            };
            std::future::ready(answer)
        };
        assert_eq!(until_answered("acquire", call).await.unwrap(), 4);

        let refused = || std::future::ready(Err::<(), _>(Status::unauthenticated("no token")));
        let status = until_answered("acquire", refused).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
}
