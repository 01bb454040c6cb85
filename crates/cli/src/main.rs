//! `quarry`: the command line of the system.
//!
//! Owns nothing but the way from the arguments to a command and from an error
//! to one sentence and an exit code.

use clap::Parser;
use quarry_cli::Cli;
use quarry_service::causes;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    quarry_service::telemetry::init("quarry", false);
    match quarry_cli::execute(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("quarry: {}", causes(&*error));
            ExitCode::FAILURE
        }
    }
}
