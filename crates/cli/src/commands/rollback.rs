//! `quarry rollback`: an earlier generation becomes the active one again.

use crate::block_on;
use crate::commands::connect::CoordinatorArgs;
use anyhow::Result;
use clap::Args;
use quarry_proto::v1::RollbackRequest;
use std::process::ExitCode;

/// Arguments of `quarry rollback`.
#[derive(Debug, Args)]
#[command(
    after_help = "The trainer follows at its next step boundary. Nothing is erased: the log gains a record.\n\n\
    Example:\n  quarry rollback 2"
)]
pub struct RollbackArgs {
    /// Number of a generation that is still kept (see `quarry generations`).
    generation: u64,
    #[command(flatten)]
    coordinator: CoordinatorArgs,
}

/// Runs the command.
///
/// # Errors
/// If the coordinator cannot be reached or refuses.
pub fn execute(args: &RollbackArgs) -> Result<ExitCode> {
    let answer = block_on(async {
        let mut client = args.coordinator.connect().await?;
        let answer = client
            .rollback(RollbackRequest {
                generation: args.generation,
            })
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| anyhow::anyhow!("not rolled back: {}", status.message()))
    })?;
    println!(
        "generation {} is active again (activation {})",
        args.generation, answer.activation
    );
    Ok(ExitCode::SUCCESS)
}
