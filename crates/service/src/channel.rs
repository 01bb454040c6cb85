//! Connecting to another service. Owns the transport settings every channel
//! needs (connect timeout, HTTP/2 keep-alive) and the sentence for a service
//! that does not answer. Once connected, a channel reconnects by itself.

use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::auth::Token;
use crate::error::{Result, ServiceError, causes};
use crate::listen::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use crate::retry::Backoff;
use crate::surroundings;

pub use crate::failover::ServiceChannel;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The endpoint at `url` (`http://host:port`; the scheme may be left out).
///
/// # Errors
/// If the address is malformed.
pub fn endpoint(url: &str) -> Result<Endpoint> {
    let full = if url.contains("://") {
        url.to_string()
    } else {
        format!("http://{url}")
    };
    let refuse = |reason: String| ServiceError::Address {
        url: url.to_string(),
        reason,
    };
    let endpoint = Endpoint::from_shared(full).map_err(|e| refuse(causes(&e)))?;
    match (endpoint.uri().scheme_str(), endpoint.uri().port()) {
        (Some("http"), Some(_)) => {}
        (Some("http"), None) => return Err(refuse("the port is missing".into())),
        _ => return Err(refuse("only http:// is spoken".into())),
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(60)))
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// The addresses in `urls`, separated by commas, each with its endpoint.
///
/// # Errors
/// If one is malformed.
pub(crate) fn endpoints(urls: &str) -> Result<Vec<(String, Endpoint)>> {
    let named = |url: &str| Ok((url.to_owned(), endpoint(url)?));
    urls.split(',').map(str::trim).map(named).collect()
}

/// Connects to `what` ("the coordinator") at the first of the addresses in `urls`
/// (separated by commas) where somebody listens, or fails after one attempt at each.
///
/// # Errors
/// [`ServiceError::Address`] or [`ServiceError::Unreachable`].
pub async fn connect(what: &str, urls: &str, token: Option<&Token>) -> Result<ServiceChannel> {
    let endpoints = endpoints(urls)?;
    let mut reasons = Vec::new();
    for (current, (_, endpoint)) in endpoints.iter().enumerate() {
        let connected = match surroundings::connect(endpoint).await {
            Ok(channel) => channel,
            Err(error) => {
                reasons.push(causes(&error));
                continue;
            }
        };
        let lazy = |(url, endpoint): &(String, Endpoint)| {
            (url.clone(), surroundings::connect_lazy(endpoint))
        };
        let mut routes: Vec<_> = endpoints.iter().map(lazy).collect();
        routes[current].1 = connected;
        return Ok(ServiceChannel::new(routes, current, token));
    }
    Err(ServiceError::Unreachable {
        what: what.to_string(),
        url: urls.to_string(),
        reason: reasons.join("; "),
    })
}

/// Like [`connect`], but tries again until `patience` is spent: processes of a
/// fleet start in any order.
///
/// # Errors
/// The last attempt's.
pub async fn connect_within(
    what: &str,
    urls: &str,
    token: Option<&Token>,
    patience: Duration,
) -> Result<ServiceChannel> {
    let deadline = Instant::now() + patience;
    let (first, longest) = (Duration::from_millis(50), Duration::from_secs(2));
    let mut backoff = Backoff::new(first, longest, surroundings::seed());
    loop {
        let error = match connect(what, urls, token).await {
            Err(error @ ServiceError::Unreachable { .. }) => error,
            outcome => return outcome,
        };
        let pause = backoff.next_pause();
        if Instant::now() + pause > deadline {
            return Err(error);
        }
        if backoff.attempts() == 5 {
            tracing::info!(%error, "still waiting");
        }
        tokio::time::sleep(pause).await;
    }
}
