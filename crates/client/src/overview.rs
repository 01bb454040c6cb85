//! The run at a glance, as `quarry status` asks for it.

use crate::absence::until_answered;
use crate::{Client, DEADLINE};
use quarry_proto::v1;
use quarry_service::patience::within;
use std::time::Duration;
use tonic::Status;

/// What the run is doing, asked once.
///
/// # Errors
/// The failure of the call, or the coordinator's refusal.
pub async fn look(client: &Client) -> Result<v1::GetRunResponse, Status> {
    let mut client = client.clone();
    within(DEADLINE, async move {
        client.get_run(v1::GetRunRequest {}).await
    })
    .await
}

/// What the run is doing, outlasting a coordinator that is away for at most
/// `patience`: another may be taking over. Its absence is said in the log.
///
/// # Errors
/// The coordinator's refusal, or that nobody answered for so long.
pub async fn look_within(
    client: &Client,
    patience: Duration,
) -> Result<v1::GetRunResponse, Status> {
    let answered = until_answered("show the run", None, || look(client));
    tokio::time::timeout(patience, answered)
        .await
        .unwrap_or_else(|_| {
            let reason = format!("it has been away for {} s", patience.as_secs());
            Err(Status::deadline_exceeded(reason))
        })
}
