//! `quarry-inferencer`: one worker of a run. See `--help`.

use clap::Parser;
use quarry_inferencer::{Args, run};
use quarry_service::{causes, signals, telemetry, threads};
use std::process::ExitCode;

/// Threads that wait for the network; computing has its own.
const IO_THREADS: usize = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    telemetry::init("quarry-inferencer", args.log_json);
    match work(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quarry-inferencer: {}", causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn work(args: &Args) -> anyhow::Result<()> {
    // CUDA is loaded before anything else asks libtorch for it.
    let device = args.claim_device()?;
    let runtime = threads::runtime("quarry-inferencer", IO_THREADS)?;
    let ended = runtime.block_on(async { run(args, device, signals::shutdown()?).await })?;
    tracing::info!(?ended, "worker ends");
    Ok(())
}
