//! One way from an address to a coordinator client.

use anyhow::Result;
use clap::Args;
use quarry_proto::v1::coordinator_client::CoordinatorClient;
use quarry_service::auth::Token;
use quarry_service::channel::{self, ServiceChannel};
use std::path::PathBuf;

/// Which coordinator to ask.
#[derive(Debug, Args)]
pub struct CoordinatorArgs {
    /// URL of the coordinator.
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
}

/// Connects to the coordinator at `url`.
///
/// # Errors
/// If nobody listens there.
pub async fn connect(
    url: &str,
    token: Option<&Token>,
) -> Result<CoordinatorClient<ServiceChannel>> {
    let channel = channel::connect("coordinator", url, token).await?;
    Ok(CoordinatorClient::new(channel).max_decoding_message_size(quarry_proto::MAX_MESSAGE_BYTES))
}
