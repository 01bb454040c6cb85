//! What befalls the way between two hosts, and the tap at a coordinator's door that
//! makes it happen at a given moment of a given call.

use crate::world::World;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

/// What a cut does to messages under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// They are lost, and with them the connection, without a word.
    Lost,
    /// They arrive when the cut is over, as TCP's own repetition makes them.
    Late,
}

impl Fault {
    /// Cuts the way between `a` and `b`.
    pub fn begin(self, a: &str, b: &str) {
        match self {
            Self::Lost => turmoil::partition(a, b),
            Self::Late => turmoil::hold(a, b),
        }
    }

    /// Heals it.
    pub fn end(self, a: &str, b: &str) {
        match self {
            Self::Lost => turmoil::repair(a, b),
            Self::Late => turmoil::release(a, b),
        }
    }

    /// Cuts the way between `a` and `b` for `time`, beginning now.
    pub fn strike(self, a: &str, b: &str, time: Duration) {
        self.begin(a, b);
        let (a, b) = (a.to_owned(), b.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            self.end(&a, &b);
        });
    }
}

/// A cut that waits for a call.
#[derive(Debug, Clone)]
struct Trap {
    method: &'static str,
    fault: Fault,
    caller: &'static str,
    time: Duration,
}

/// Cuts that wait for calls, shared by whoever sets them and the tap.
#[derive(Debug, Clone, Default)]
pub struct Traps {
    trap: Arc<Mutex<Option<Trap>>>,
    swallowed: Arc<Mutex<Option<&'static str>>>,
}

impl Traps {
    /// When the coordinator has done what the next call of `method` asks for, its way
    /// to `caller` is cut for `time`, and the answer with it.
    pub fn set(&self, method: &'static str, fault: Fault, caller: &'static str, time: Duration) {
        let trap = Trap {
            method,
            fault,
            caller,
            time,
        };
        *self.trap.lock().unwrap() = Some(trap);
    }

    /// Whether the last one set has been sprung.
    pub fn sprung(&self) -> bool {
        self.trap.lock().unwrap().is_none()
    }

    /// The next call of `method` is heard, and neither done nor answered.
    pub fn swallow(&self, method: &'static str) {
        *self.swallowed.lock().unwrap() = Some(method);
    }

    fn swallows(&self, method: &str) -> bool {
        let mut swallowed = self.swallowed.lock().unwrap();
        swallowed
            .take_if(|swallowed| *swallowed == method)
            .is_some()
    }

    fn spring(&self, method: &str, here: &str) {
        let mut trap = self.trap.lock().unwrap();
        if let Some(trap) = trap.take_if(|trap| trap.method == method) {
            trap.fault.strike(trap.caller, here, trap.time);
        }
    }
}

/// A service whose answers may be cut off, and whose calls are noted.
#[derive(Clone)]
pub struct Tap<S> {
    pub inner: S,
    pub host: String,
    pub world: World,
}

impl<S: NamedService> NamedService for Tap<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<http::Request<B>> for Tap<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let path = request.uri().path();
        let method = path.rsplit('/').next().unwrap_or(path).to_owned();
        self.world
            .note(format_args!("{} hears {method}", self.host));
        if self.world.traps.swallows(&method) {
            return Box::pin(std::future::pending());
        }
        let (answer, host, world) = (
            self.inner.call(request),
            self.host.clone(),
            self.world.clone(),
        );
        Box::pin(async move {
            let answer = answer.await;
            let refusal = answer.as_ref().is_ok_and(is_refusal);
            let verb = if refusal { "refuses" } else { "answers" };
            world.note(format_args!("{host} {verb} {method}"));
            world.traps.spring(&method, &host);
            answer
        })
    }
}

fn is_refusal<R>(answer: &http::Response<R>) -> bool {
    Status::from_header_map(answer.headers()).is_some_and(|status| status.code() != Code::Ok)
}
