//! The command line.

use crate::server::{FENCED_EXIT, PORT_TAKEN_EXIT};
use anyhow::Result;
use clap::Parser;
use quarry_service::channel::endpoint;
use quarry_service::{ServiceArgs, listen};
use std::net::SocketAddr;
use std::time::Duration;

/// Decides which generation of negatives is current and hands out the work of
/// making the next one
#[derive(Debug, Clone, Parser)]
#[command(name = "quarry-coordinator", version, after_help = after_help())]
pub struct Options {
    /// Artifact store of the run: a folder, file:///, s3://, gs:// or az://
    #[arg(long, value_name = "URL", env = "QUARRY_STORE")]
    pub store: String,

    /// Stand by while another coordinator leads, and take over when it falls silent;
    /// give trainer and inferencers the addresses of both, separated by commas
    #[arg(long)]
    pub standby: bool,

    /// With --standby: take over after the leader has been silent for so long
    #[arg(long, value_name = "SECONDS", default_value = "8", value_parser = seconds)]
    pub takeover_after: Duration,

    /// Address by which standbys find this coordinator when it leads
    /// [default: the one it listens on]
    #[arg(long, value_name = "URL", env = "QUARRY_ADVERTISE")]
    pub advertise: Option<String>,

    /// What every service has.
    #[command(flatten)]
    pub service: ServiceArgs,
}

fn after_help() -> String {
    format!(
        "Exit codes: 0 when told to stop; {FENCED_EXIT} when another coordinator took the run over, \
         so that this one must not be restarted (with --standby it stands by instead); \
         {PORT_TAKEN_EXIT} when its port is in use; 2 on a wrong argument; 1 on any other failure

Examples:
  quarry-coordinator --store s3://bucket/run --listen 0.0.0.0:7600 --token-file token --standby
      on two machines: one leads, and the other takes over when it dies"
    )
}

impl Options {
    /// Where others find a coordinator that listens at `bound`, if they can.
    ///
    /// # Errors
    /// If `--advertise` is no service address.
    pub fn address(&self, bound: SocketAddr) -> Result<Option<String>> {
        if let Some(url) = &self.advertise {
            endpoint(url)?;
            return Ok(Some(url.clone()));
        }
        let address = listen::reachable(bound);
        if address.is_none() {
            tracing::warn!("this machine's address is unknown to standbys; give --advertise");
        }
        Ok(address.map(|address| format!("http://{address}")))
    }
}

/// A duration of at least one second.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    if !(1.0..=86_400.0).contains(&seconds) {
        return Err("give 1 second to a day".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        let fixed = ["quarry-coordinator", "--store", "runs/a"];
        Options::try_parse_from(fixed.iter().chain(arguments))
    }

    #[test]
    fn the_options_are_consistent() {
        Options::command().debug_assert();
        let options = parse(&[]).unwrap();
        assert!(!options.standby && options.takeover_after == Duration::from_secs(8));
        let quick = parse(&["--standby", "--takeover-after", "2.5"]).unwrap();
        assert_eq!(quick.takeover_after, Duration::from_millis(2500));
        for bad in ["0", "-1", "soon", "NaN", "inf"] {
            assert!(parse(&["--takeover-after", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_coordinator_is_where_it_says_or_where_it_listens() {
        let bound = "127.0.0.1:7600".parse().unwrap();
        let address = |arguments: &[&str]| parse(arguments).unwrap().address(bound);
        assert_eq!(address(&[]).unwrap().unwrap(), "http://127.0.0.1:7600");
        let url = "http://head:7600";
        assert_eq!(address(&["--advertise", url]).unwrap().unwrap(), url);
        assert!(address(&["--advertise", "head"]).is_err());
    }
}
