//! One way from an address to a coordinator client.

use anyhow::Result;
use clap::Args;
use quarry_proto::v1;
use quarry_proto::v1::coordinator_client::CoordinatorClient;
use quarry_service::auth::Token;
use quarry_service::channel::{self, ServiceChannel};
use quarry_service::patience::{is_absence, within};
use std::path::PathBuf;
use std::time::Duration;
use tonic::Status;

/// How long one of several coordinators may take to say whether it leads.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Which coordinator to ask.
#[derive(Debug, Args)]
pub struct CoordinatorArgs {
    /// URL of the coordinator; with standbys the URLs of all, separated by commas.
    #[arg(
        long,
        env = "QUARRY_COORDINATOR",
        default_value = "http://127.0.0.1:7600"
    )]
    coordinator: String,
    /// File that holds the bearer token, for a coordinator off loopback.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl CoordinatorArgs {
    /// Connects.
    ///
    /// # Errors
    /// If the token file is unusable or nobody listens.
    pub async fn connect(&self) -> Result<CoordinatorClient<ServiceChannel>> {
        let token = self.token_file.as_deref().map(Token::read).transpose()?;
        connect(&self.coordinator, token.as_ref()).await
    }

    /// The sentence for a call that got no answer, or not the one it should.
    #[must_use]
    pub fn unanswered(&self, status: &Status) -> anyhow::Error {
        anyhow::anyhow!(
            "the coordinator at {} did not answer: {}",
            self.coordinator,
            status.message()
        )
    }
}

/// Connects to the coordinator at `urls`, separated by commas; of several to the one
/// that leads.
///
/// # Errors
/// If nobody listens there.
pub async fn connect(
    urls: &str,
    token: Option<&Token>,
) -> Result<CoordinatorClient<ServiceChannel>> {
    let channel = channel::connect("coordinator", urls, token).await?;
    let others = channel.addresses() - 1;
    let mut client =
        CoordinatorClient::new(channel).max_decoding_message_size(quarry_proto::MAX_MESSAGE_BYTES);
    for _ in 0..others {
        // Each answer that is none turns the channel to the next address.
        let leads = within(ANSWER_LIMIT, client.get_run(v1::GetRunRequest {})).await;
        if !leads.is_err_and(|status| is_absence(&status)) {
            break;
        }
    }
    Ok(client)
}
