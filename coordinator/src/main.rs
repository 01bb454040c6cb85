//! `quarry-coordinator`: parse, build, run until a signal.

use clap::Parser;
use quarry_coordinator::options::Options;
use quarry_coordinator::server::{exit_code, serve};
use quarry_service::{causes, signals, telemetry};
use std::process::ExitCode;

// One thread: all calls end at the one driver, and a thread that waits to be woken for each
// of a fleet's small calls costs more than the calls.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    telemetry::init("quarry-coordinator", options.service.log_json);
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quarry-coordinator: {}", causes(&*error));
            ExitCode::from(exit_code(&error))
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let shutdown = signals::shutdown()?;
    serve(&options, shutdown).await
}
