//! `quarry-coordinator`: parse, build, run until a signal.

use clap::Parser;
use quarry_service::{ServiceArgs, signals, telemetry};
use std::process::ExitCode;

/// Decides which generation of negatives is current and hands out the work of
/// making the next one
#[derive(Parser)]
#[command(name = "quarry-coordinator", version)]
struct Options {
    /// Artifact store of the run: a folder, file:///, s3://, gs:// or az://
    #[arg(long, value_name = "URL", env = "QUARRY_STORE")]
    store: String,

    #[command(flatten)]
    service: ServiceArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    telemetry::init("quarry-coordinator", options.service.log_json);
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let shutdown = signals::shutdown()?;
    quarry_coordinator::server::serve(&options.store, &options.service, shutdown).await
}
