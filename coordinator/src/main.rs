//! `quarry-coordinator`: parse, build, run until a signal.

use clap::Parser;
use quarry_coordinator::server::{FENCED_EXIT, exit_code};
use quarry_service::{ServiceArgs, signals, telemetry};
use std::process::ExitCode;

/// Decides which generation of negatives is current and hands out the work of
/// making the next one
#[derive(Parser)]
#[command(name = "quarry-coordinator", version, after_help = exit_codes())]
struct Options {
    /// Artifact store of the run: a folder, file:///, s3://, gs:// or az://
    #[arg(long, value_name = "URL", env = "QUARRY_STORE")]
    store: String,

    #[command(flatten)]
    service: ServiceArgs,
}

fn exit_codes() -> String {
    format!(
        "Exit codes: 0 when told to stop; {FENCED_EXIT} when another coordinator took the run over, \
         so that this one must not be restarted; 2 on a wrong argument; 1 on any other failure"
    )
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    telemetry::init("quarry-coordinator", options.service.log_json);
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quarry-coordinator: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let shutdown = signals::shutdown()?;
    quarry_coordinator::server::serve(&options.store, &options.service, shutdown).await
}
