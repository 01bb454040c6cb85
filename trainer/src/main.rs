//! `quarry-trainer`: parse, build, train until done or told to stop.

use clap::Parser;
use quarry_service::causes;
use quarry_trainer::options::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = Options::parse();
    quarry_service::telemetry::init("quarry-trainer", options.log_json);
    match quarry_trainer::run::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quarry-trainer: {}", causes(&*error));
            ExitCode::from(quarry_trainer::run::exit_code(&error))
        }
    }
}
