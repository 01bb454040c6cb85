//! What can go wrong while a process starts up or connects.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// This crate's result.
pub type Result<T> = std::result::Result<T, ServiceError>;

/// Why a process cannot listen, connect or start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The address to listen on is taken.
    #[error(
        "cannot listen on {addr}: the port is in use; stop the other process or give another --listen (port 0 picks a free one)"
    )]
    PortInUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The address to listen on cannot be bound for another reason.
    #[error("cannot listen on {addr}: {reason}; give an address of this machine to --listen")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The operating system's words.
        reason: String,
    },
    /// Listening to the network without a token was refused.
    #[error(
        "refusing to listen on {addr} without a token; give --token-file, listen on 127.0.0.1, or pass --insecure on a network you trust"
    )]
    Unprotected {
        /// The address.
        addr: SocketAddr,
    },
    /// A service address that is not `http://host:port`.
    #[error("{url:?} is not a service address: {reason}; write http://host:port")]
    Address {
        /// The address as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A GPU was asked for that is not there.
    #[error(
        "there is no GPU {number}, libtorch sees {gpus}; choose another --device, cpu, or install a CUDA libtorch"
    )]
    NoGpu {
        /// Its number.
        number: usize,
        /// How many there are.
        gpus: usize,
    },
    /// A GPU was asked for, and CUDA cannot be used.
    #[error("a GPU was asked for, but {reason}; --device cpu does without")]
    Cuda {
        /// What failed, and how to mend it.
        reason: String,
    },
    /// Nobody answers at a service address.
    #[error(
        "cannot reach {what} at {url}: {reason}; check that it is running and that the address is right"
    )]
    Unreachable {
        /// What should answer there: `the coordinator`, …
        what: String,
        /// Its address.
        url: String,
        /// The last attempt's failure.
        reason: String,
    },
    /// A token that cannot be sent in a header.
    #[error(
        "the token in {path} is unusable: {reason}; write one line of at least 16 visible ASCII characters"
    )]
    Token {
        /// The token file, or a word for another source.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A local file that cannot be read or written.
    #[error("cannot access {}: {reason}; check the path and its permissions", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// A process did not write its port file in time.
    #[error("no address appeared in {} within {} s; the process that should write it did not start, see its log", path.display(), waited.as_secs())]
    NoPortFile {
        /// The port file.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A server stopped with an error.
    #[error("the server on {addr} failed: {reason}; restart the process")]
    Server {
        /// Its address.
        addr: SocketAddr,
        /// What happened.
        reason: String,
    },
}

/// `error` and its causes in one line, each said once: transports hide the telling one deepest, and other errors
/// repeat theirs.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open it: {source}; check the path")]
    struct Telling {
        source: std::io::Error,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no collection")]
    struct Silent {
        source: Telling,
    }

    #[test]
    fn a_cause_is_said_once() {
        let source = Telling {
            source: std::io::Error::other("no such file"),
        };
        assert_eq!(
            causes(&Silent { source }),
            "no collection: cannot open it: no such file; check the path"
        );
    }
}
