//! Outlasting a service that is away: how long a call may take, which answers are
//! worth another attempt, how long to wait between attempts.
//!
//! Refuses: giving up, and saying so; both are the caller's.

use crate::retry::Backoff;
use crate::surroundings;
use std::time::Duration;
use tonic::{Code, Response, Status};

/// Bound of the wait before the second attempt.
const FIRST: Duration = Duration::from_millis(100);
/// Bound of the longest wait between two attempts. Short, because a standby takes
/// over within seconds and each attempt tries one address.
const LONGEST: Duration = Duration::from_secs(2);

/// Pauses between attempts: from 100 ms, doubling up to 2 s, apart from those of
/// other processes.
#[must_use]
pub fn new_backoff() -> Backoff {
    Backoff::new(FIRST, LONGEST, surroundings::seed())
}

/// Whether the same call may succeed once the service is back. Anything else is
/// an answer, and it meant it.
#[must_use]
pub fn is_absence(status: &Status) -> bool {
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

/// The answer to `call`, if it comes within `limit`.
///
/// # Errors
/// The call's own failure, or [`Code::DeadlineExceeded`].
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => {
            let reason = format!("no answer in {} s", limit.as_secs_f64());
            Err(Status::deadline_exceeded(reason))
        }
    }
}

/// Repeats `call` until the service answers it; `away` hears of each attempt that
/// was in vain.
///
/// # Errors
/// The service's refusal, if that is its answer.
pub async fn until_answered<T, Fut>(
    mut call: impl FnMut() -> Fut,
    mut away: impl FnMut(&Status),
) -> Result<T, Status>
where
    Fut: Future<Output = Result<T, Status>>,
{
    let mut backoff = new_backoff();
    loop {
        match call().await {
            Err(status) if is_absence(&status) => away(&status),
            answer => return answer,
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn an_absent_service_is_outlasted_and_a_refusal_is_not() {
        let (attempts, absences) = (Cell::new(0), Cell::new(0));
        let call = || {
            attempts.set(attempts.get() + 1);
            let answer = match attempts.get() {
                1..=3 => Err(Status::unavailable("connection refused")),
                n => Ok(n),
            };
            std::future::ready(answer)
        };
        let away = |_: &Status| absences.set(absences.get() + 1);
        assert_eq!(until_answered(call, away).await.unwrap(), 4);
        assert_eq!(absences.get(), 3);

        let refused = || std::future::ready(Err::<(), _>(Status::unauthenticated("no token")));
        let status = until_answered(refused, away).await.unwrap_err();
        assert_eq!((status.code(), absences.get()), (Code::Unauthenticated, 3));
    }

    #[tokio::test]
    async fn a_call_without_an_answer_is_an_absence() {
        let silent = std::future::pending::<Result<Response<()>, Status>>();
        let status = within(Duration::from_millis(1), silent).await.unwrap_err();
        assert!(is_absence(&status));
        let answer = std::future::ready(Ok(Response::new(7)));
        assert_eq!(within(Duration::from_secs(9), answer).await.unwrap(), 7);
    }
}
