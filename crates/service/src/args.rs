//! Command-line options that programs share.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::auth::{Token, check_exposure};
use crate::error::Result;
use crate::port_file;

/// The most that `--threads` takes, for every program: more than a machine has cores, and fewer than would exhaust one.
pub const MOST_THREADS: i64 = 1024;

/// Listening, tokens and logs; flattened into each program's own options.
#[derive(Debug, Clone, clap::Args)]
pub struct ServiceArgs {
    /// Address to serve gRPC on; port 0 picks a free one
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:0",
        env = "QUARRY_LISTEN"
    )]
    pub listen: SocketAddr,

    /// Address to serve grpc.health.v1 on, in plain text [default: none]
    #[arg(long, value_name = "ADDR", env = "QUARRY_HEALTH_LISTEN")]
    pub health_listen: Option<SocketAddr>,

    /// File with the bearer token to demand from callers and to send to other services
    #[arg(long, value_name = "FILE", env = "QUARRY_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// Allow listening to the network without a token
    #[arg(long)]
    pub insecure: bool,

    /// Log one JSON object a line
    #[arg(long, env = "QUARRY_LOG_JSON")]
    pub log_json: bool,

    /// File to write the bound address to once the service listens
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
}

impl ServiceArgs {
    /// The token, if a file is given; also checks that `--listen` may be used
    /// with or without it.
    ///
    /// # Errors
    /// If the file is unusable, or the address needs a token and there is none.
    pub fn token(&self) -> Result<Option<Token>> {
        let token = self.token_file.as_deref().map(Token::read).transpose()?;
        check_exposure(self.listen, token.as_ref(), self.insecure)?;
        Ok(token)
    }

    /// Writes the port file, if one is asked for.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn announce(&self, bound: SocketAddr) -> Result<()> {
        self.port_file
            .as_deref()
            .map_or(Ok(()), |path| port_file::write(path, bound))
    }
}

/// The local cache: the folder that `--cache` gives, or `$XDG_CACHE_HOME/quarry`, or
/// `~/.cache/quarry`.
#[must_use]
pub fn cache_folder(given: Option<&Path>) -> PathBuf {
    let under = |key, sub: &str| std::env::var_os(key).map(|dir| PathBuf::from(dir).join(sub));
    given
        .map(Path::to_owned)
        .or_else(|| under("XDG_CACHE_HOME", "quarry"))
        .or_else(|| under("HOME", ".cache/quarry"))
        .unwrap_or_else(|| std::env::temp_dir().join("quarry-cache"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        service: ServiceArgs,
    }

    fn parse(args: &[&str]) -> ServiceArgs {
        let all = std::iter::once("program").chain(args.iter().copied());
        Program::try_parse_from(all).unwrap().service
    }

    #[test]
    fn the_defaults_are_safe() {
        let args = parse(&[]);
        assert!(args.listen.ip().is_loopback());
        assert_eq!(args.token().unwrap(), None);
        args.announce(args.listen).unwrap();
    }

    #[test]
    fn the_network_needs_a_token() {
        assert!(parse(&["--listen", "0.0.0.0:7001"]).token().is_err());
        assert!(
            parse(&["--listen", "0.0.0.0:7001", "--insecure"])
                .token()
                .is_ok()
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let file = file.to_str().unwrap();
        let args = parse(&["--listen", "0.0.0.0:7001", "--token-file", file]);
        assert!(args.token().unwrap().is_some());
    }
}
