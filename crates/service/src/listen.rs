//! Listening for gRPC calls. Owns binding with clear failures and the server's
//! transport settings, the same for every service.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::error::{Result, ServiceError};

/// How long a connection may be silent before its client probes it, and how long the answer
/// may take: without this a partition is never noticed. Longer than the pause between a
/// lease's heartbeats by default, and than a wait for work: a fleet's calls are the only
/// probes.
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(11);
/// See [`KEEP_ALIVE_INTERVAL`].
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(14);

/// The same of a server, which has many and waits for none: it only clears up.
const SERVER_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long a server that stops waits for its clients, one of which may be gone without a word
/// or never end what it listens to. Docker's patience is 10 s, that of Kubernetes 30.
const FAREWELL: Duration = Duration::from_secs(5);

/// Binds `addr` (port 0: a free one) and logs and returns the bound address.
///
/// # Errors
/// [`ServiceError::PortInUse`], or [`ServiceError::Listen`] for an address that
/// is not this machine's.
pub async fn bind(addr: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let fail = |error: std::io::Error| match error.kind() {
        ErrorKind::AddrInUse => ServiceError::PortInUse { addr },
        _ => ServiceError::Listen {
            addr,
            reason: error.to_string(),
        },
    };
    let listener = TcpListener::bind(addr).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    tracing::info!(addr = %bound, "listening");
    Ok((listener, bound))
}

/// An address at which others reach a listener at `bound`: that one, or, if it
/// stands for every address of this machine, the one that its packets leave from.
/// `None` if the machine has no network.
#[must_use]
pub fn reachable(bound: SocketAddr) -> Option<SocketAddr> {
    if !bound.ip().is_unspecified() {
        return Some(bound);
    }
    // Connecting a datagram socket sends nothing; it only asks for the route, here
    // to an address kept for documentation (RFC 5737).
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    Some(SocketAddr::new(ip, bound.port()))
}

/// The listener's connections, as a tonic server takes them.
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(Duration::from_secs(60)))
}

/// A tonic server with this project's keep-alive.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(SERVER_KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

/// Runs `server` to its end; connections that are open five seconds after `shutdown` are
/// waited for no longer.
///
/// # Errors
/// The server's.
pub async fn until_drained<E>(
    server: impl Future<Output = std::result::Result<(), E>>,
    shutdown: &CancellationToken,
) -> std::result::Result<(), E> {
    let patience = async {
        shutdown.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = server => served,
        () = patience => {
            let seconds = FAREWELL.as_secs();
            tracing::warn!(seconds, "stopped, though some connections did not end in time");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_and_port_zero_picks_a_free_one() {
        let (_listener, bound) = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert_ne!(bound.port(), 0);
        let error = bind(bound).await.unwrap_err();
        assert!(matches!(error, ServiceError::PortInUse { .. }));
        assert!(error.to_string().contains(&bound.to_string()), "{error}");
    }

    #[test]
    fn others_are_not_sent_to_the_unspecified_address() {
        let local: SocketAddr = "127.0.0.1:7600".parse().unwrap();
        assert_eq!(reachable(local), Some(local));
        // Without a network there is none, with one it is a real one.
        if let Some(found) = reachable("0.0.0.0:7600".parse().unwrap()) {
            assert!(!found.ip().is_unspecified() && found.port() == 7600);
        }
    }

    #[tokio::test]
    async fn a_foreign_address_is_refused() {
        let error = bind("192.0.2.1:0".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, ServiceError::Listen { .. }), "{error}");
    }
}
