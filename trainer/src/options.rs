//! The command line.

use clap::Parser;
use quarry_service::DeviceChoice;
use quarry_service::args::MOST_THREADS;
use std::path::PathBuf;

/// Trains a dual encoder on hard negatives that inferencers keep fresh.
///
/// Reads the run (recipe, corpus, first model) from run.json in the store, waits for
/// generation 0 of negatives, and trains. Checkpoints go to the store in the
/// background; newer generations come over the coordinator's stream and are taken at
/// a step boundary, without waiting. The coordinator may restart at any time.
///
/// SIGTERM and SIGINT finish the step, publish a checkpoint and exit 0; a second one
/// exits at once. Exit code 5 says that --resume would come to the same end. `quarry run`
/// starts this program for you on one machine.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "quarry-trainer",
    version,
    after_help = "Examples:
  quarry-trainer --coordinator http://127.0.0.1:7600 --store file:///data/run
  quarry-trainer --coordinator http://head:7600 --store s3://bucket/run --device cuda:0 --token-file token
  quarry-trainer --coordinator http://127.0.0.1:7600 --store /data/run --resume --losses losses.jsonl"
)]
pub struct Options {
    /// Address of the coordinator, http://host:port; with standbys the addresses of
    /// all, separated by commas
    #[arg(long, value_name = "URL", env = "QUARRY_COORDINATOR")]
    pub coordinator: String,

    /// Artifact store of the run: a folder, file:///, s3://, gs:// or az://
    #[arg(long, value_name = "URL", env = "QUARRY_STORE")]
    pub store: String,

    /// Threads of libtorch; part of what makes a run repeat bitwise
    /// [default: the cores that fleet.workers leave, from the recipe]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_THREADS), env = "QUARRY_THREADS")]
    pub threads: Option<u16>,

    /// Folder of the local cache; its size is fleet.cache_gib of the recipe
    /// [default: $XDG_CACHE_HOME/quarry or ~/.cache/quarry]
    #[arg(long, value_name = "DIR", env = "QUARRY_CACHE")]
    pub cache: Option<PathBuf>,

    /// Where to train: auto, cpu or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,

    /// Go on from the newest complete checkpoint in the store
    #[arg(long)]
    pub resume: bool,

    /// File with the bearer token to send to the coordinator
    #[arg(long, value_name = "FILE", env = "QUARRY_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// Stop after this many steps of the run as if by SIGTERM: publish a checkpoint
    /// and exit 0; --resume goes on
    #[arg(long, value_name = "N")]
    pub stop_after_step: Option<u64>,

    /// Append one JSON line a step to this file: loss, rate, speed, generation, staleness
    /// (lines of steps about to be taken again are dropped from it first)
    #[arg(long, value_name = "FILE")]
    pub losses: Option<PathBuf>,

    /// Log one JSON object a line
    #[arg(long, env = "QUARRY_LOG_JSON")]
    pub log_json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_options_are_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn no_machine_has_that_many_threads() {
        let parse = |threads| {
            Options::try_parse_from([
                "quarry-trainer",
                "--coordinator",
                "http://127.0.0.1:7600",
                "--store",
                "store",
                "--threads",
                threads,
            ])
        };
        assert_eq!(parse("1024").unwrap().threads, Some(1024));
        for threads in ["0", "1025", "100000"] {
            let message = parse(threads).unwrap_err().to_string();
            assert!(message.contains("1..=1024"), "{message}");
        }
    }
}
