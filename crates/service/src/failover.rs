//! One channel to a service that has several addresses and answers at one of
//! them at a time: a leader and its standbys.
//!
//! Owns: which address is called, and the turn to the next one when nobody is
//! there or who is there only stands by. Refuses: making a call again, because
//! only its caller knows whether that is safe; and pausing, which is `patience`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::service::interceptor::{InterceptedService, ResponseBody};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::auth::{SendToken, Token};
use crate::channel::endpoints;
use crate::error::Result;
use crate::surroundings::connect_lazy;

/// A call that its caller gave up unanswered after this long met nobody; one given
/// up sooner says nothing about the service. Less than any caller's patience: that of
/// a heartbeat is a quarter of a lease, which lasts a second or more. Who turns for
/// nothing is sent back by a standby, and costs the next call its time where nobody is:
/// so a heartbeat is not given up because its task is done.
const SILENCE: Duration = Duration::from_millis(200);

/// A channel that sends the token, if any; what generated clients are built on.
/// Clones share the address that is called: what one finds out, all know.
///
/// A call goes to one address and fails as a call does. The next call goes to the
/// next address if the transport failed, the answer was [`Code::Unavailable`], or
/// the caller gave up after a silence. With one address nothing turns.
#[derive(Debug, Clone)]
pub struct ServiceChannel(Arc<Routes>);

#[derive(Debug)]
struct Routes {
    all: Vec<Route>,
    /// Position in `all` of the address that is called.
    current: watch::Sender<usize>,
}

#[derive(Debug)]
struct Route {
    url: String,
    channel: InterceptedService<Channel, SendToken>,
}

impl ServiceChannel {
    /// A channel to the first of the addresses in `urls`, separated by commas, and
    /// to the others in turn. Connects when it is first used.
    ///
    /// # Errors
    /// If an address is malformed.
    pub fn lazy(urls: &str, token: Option<&Token>) -> Result<Self> {
        let routes = endpoints(urls)?.into_iter();
        let routes = routes.map(|(url, endpoint)| (url, connect_lazy(&endpoint)));
        Ok(Self::new(routes.collect(), 0, token))
    }

    /// A channel over (address, channel) pairs that begins with number `current`.
    pub(crate) fn new(
        routes: Vec<(String, Channel)>,
        current: usize,
        token: Option<&Token>,
    ) -> Self {
        let route = |(url, channel)| Route {
            url,
            channel: InterceptedService::new(channel, SendToken::new(token)),
        };
        Self(Arc::new(Routes {
            all: routes.into_iter().map(route).collect(),
            current: watch::Sender::new(current),
        }))
    }

    /// How many addresses there are.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.0.all.len()
    }

    /// Ends when the channel turns from the address that is called now. An open stream
    /// cannot tell that who is at its other end leads no longer; other calls do.
    pub fn turned(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut current = self.0.current.subscribe();
        async move {
            if current.changed().await.is_err() {
                std::future::pending().await // the channel is gone and turns no more
            }
        }
    }
}

impl Routes {
    /// Turns from the address `from` to the next one, unless another call has done so.
    fn turn_from(&self, from: usize) {
        let next = (from + 1) % self.all.len();
        let turns = self.current.send_if_modified(|current| {
            let turns = *current == from && next != from;
            if turns {
                *current = next;
            }
            turns
        });
        if turns {
            let (from, to) = (&self.all[from].url, &self.all[next].url);
            tracing::debug!(from, to, "turning to the next address");
        }
    }
}

/// One call on its way. Dropped unanswered, it remembers for how long it was.
struct Attempt {
    routes: Arc<Routes>,
    route: usize,
    begun: Instant,
    answered: bool,
}

impl Attempt {
    fn begin(routes: &Arc<Routes>) -> Self {
        Self {
            routes: Arc::clone(routes),
            route: *routes.current.borrow(),
            begun: Instant::now(),
            answered: false,
        }
    }

    fn end<B, E>(mut self, answer: &std::result::Result<http::Response<B>, E>) {
        self.answered = true;
        if answer.as_ref().map_or(true, is_unavailable) {
            self.routes.turn_from(self.route);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.answered && self.begun.elapsed() >= SILENCE {
            self.routes.turn_from(self.route);
        }
    }
}

/// Whether the call was refused at once because nobody here can answer it.
fn is_unavailable<B>(response: &http::Response<B>) -> bool {
    Status::from_header_map(response.headers()).is_some_and(|s| s.code() == Code::Unavailable)
}

impl Service<http::Request<Body>> for ServiceChannel {
    type Response = http::Response<ResponseBody<Body>>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    /// Always ready: which address is called is known when it is.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let attempt = Attempt::begin(&self.0);
        let mut channel = self.0.all[attempt.route].channel.clone();
        Box::pin(async move {
            let answer = match poll_fn(|context| channel.poll_ready(context)).await {
                Ok(()) => channel.call(request).await,
                Err(error) => Err(error),
            };
            attempt.end(&answer);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_given_up_after_a_silence_met_nobody() {
        let urls = "http://127.0.0.1:1,http://127.0.0.1:2,http://127.0.0.1:3";
        let routes = ServiceChannel::lazy(urls, None).unwrap().0;
        let current = || *routes.current.borrow();
        drop(Attempt::begin(&routes));
        assert_eq!(current(), 0, "its caller lost interest");
        let together = [Attempt::begin(&routes), Attempt::begin(&routes)];
        tokio::time::advance(SILENCE).await;
        drop(together);
        assert_eq!(current(), 1, "calls that fail together turn once");
        routes.turn_from(1);
        routes.turn_from(2);
        assert_eq!(current(), 0, "after the last comes the first");
    }
}
