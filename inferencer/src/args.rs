//! The command line of `quarry-inferencer`.

use clap::Parser;
use quarry_service::DeviceChoice;
use quarry_service::args::MOST_THREADS;
use std::net::SocketAddr;
use std::path::PathBuf;
use tch::Device;

/// Encode, index, search and mine for a run: pulls tasks from its coordinator
/// until the run is finished. Start as many as there are machines or GPUs;
/// each may come and go at any time.
#[derive(Debug, Clone, Parser)]
#[command(name = "quarry-inferencer", version, after_long_help = AFTER_HELP)]
pub struct Args {
    /// Address of the run's coordinator, http://host:port; with standbys the
    /// addresses of all, separated by commas
    #[arg(long, value_name = "URL", env = "QUARRY_COORDINATOR")]
    pub coordinator: String,

    /// The run's artifact store: a folder, file:///, s3://, gs:// or az://
    #[arg(long, value_name = "URL", env = "QUARRY_STORE")]
    pub store: String,

    /// Threads to compute with [default: all cores]
    ///
    /// Fixed for the life of the process, because the last bits of an embedding
    /// depend on it. Two processes must not share cores: libtorch becomes
    /// several times slower.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_THREADS), env = "QUARRY_THREADS")]
    pub threads: Option<u16>,

    /// Folder for cached objects and the BM25 index; workers may share it
    /// [default: $XDG_CACHE_HOME/quarry or ~/.cache/quarry]
    #[arg(long, value_name = "DIR", env = "QUARRY_CACHE")]
    pub cache: Option<PathBuf>,

    /// Name of this worker in status and logs; must be unique
    /// [default: host name, process id and a random part]
    #[arg(long, value_name = "ID")]
    pub name: Option<String>,

    /// Where to compute: auto (a GPU if there is one), cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,

    /// Seconds to look for a coordinator before giving up. One that has answered once
    /// is waited for without limit
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..))]
    pub patience: u64,

    /// File with the bearer token to send to the coordinator
    #[arg(long, value_name = "FILE", env = "QUARRY_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// Address to serve grpc.health.v1 on, in plain text [default: none]
    #[arg(long, value_name = "ADDR", env = "QUARRY_HEALTH_LISTEN")]
    pub health_listen: Option<SocketAddr>,

    /// Log one JSON object a line
    #[arg(long, env = "QUARRY_LOG_JSON")]
    pub log_json: bool,

    /// Do one task and exit
    #[arg(long)]
    pub once: bool,
}

const AFTER_HELP: &str = "\
On SIGTERM or SIGINT the lease is returned and the process exits with 0; it also \
exits with 0 when the run is finished. When its GPU fails, the lease is returned and \
the process exits with 1: start it again. A coordinator that goes away is waited for: \
a finished task is kept and delivered when it is back. One that has not answered \
within --patience at the start is not: the process exits with 1.

Environment:
  OMP_WAIT_POLICY=passive   set it when other processes share the machine: idle
                            threads then sleep instead of spinning. It is read
                            before the program starts.
  RUST_LOG                  what to log, such as debug or quarry_inferencer=debug

Example, one worker a GPU on a machine with two:
  quarry-inferencer --coordinator http://head:7600 --store s3://bucket/run --device cuda:0 --threads 8
  quarry-inferencer --coordinator http://head:7600 --store s3://bucket/run --device cuda:1 --threads 8";

impl Args {
    /// The device to compute on. Loads CUDA unless the CPU was asked for, and fixes a GPU's
    /// arithmetic, so it must come before any other use of libtorch.
    ///
    /// # Errors
    /// If the GPU that was asked for is not there.
    pub fn claim_device(&self) -> anyhow::Result<Device> {
        let gpu = self.device.claim(quarry_torch_ext::gpus)?;
        Ok(quarry_torch_ext::claim_device(gpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_options_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_machine_has_that_many_threads() {
        let parse = |threads| {
            Args::try_parse_from([
                "quarry-inferencer",
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
