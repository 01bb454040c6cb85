//! Outlasting a coordinator that is away, and saying so.
//!
//! Refuses: giving up. A refusal the coordinator meant is handed back at once.

use quarry_service::patience;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// The absence is repeated in the log this often.
const REMIND: Duration = Duration::from_secs(30);

/// Repeats `call` until the coordinator, which is to be found at the addresses `at`
/// if they are known, answers it. The absence is said once and then every 30 s, and so
/// is the return.
///
/// # Errors
/// The coordinator's refusal, if that is its answer.
pub(crate) async fn until_answered<T, Fut>(
    what: &str,
    at: Option<&str>,
    call: impl FnMut() -> Fut,
) -> Result<T, Status>
where
    Fut: Future<Output = Result<T, Status>>,
{
    let started = Instant::now();
    let mut said: Option<Instant> = None;
    let answer = patience::until_answered(call, |status| {
        if said.is_none_or(|at| at.elapsed() >= REMIND) {
            said = Some(Instant::now());
            let reason = status.message();
            tracing::warn!(
                what,
                coordinator = at,
                reason,
                "the coordinator does not answer; trying again until it does"
            );
        }
    })
    .await?;
    if said.is_some() {
        let away_seconds = started.elapsed().as_secs();
        tracing::info!(away_seconds, "the coordinator is back");
    }
    Ok(answer)
}
