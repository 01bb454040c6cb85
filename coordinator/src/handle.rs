//! The way to the driver: what the gRPC service holds, cheap to clone.
//!
//! Every call waits until what it caused is durable. Decides nothing.

use crate::state::{Announcement, Answer, Event, Rejected, State, Timestamp};
use quarry_proto::Lease;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

/// Why a request got no answer.
#[derive(Debug, Error)]
pub enum RequestError {
    /// It makes no sense.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The coordinator stops.
    #[error("the coordinator is stopping; ask again")]
    Stopping,
}

/// The answer to a request for work.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkAnswer {
    /// The work, if there is any.
    pub lease: Option<Lease>,
    /// Nothing will be to do.
    pub finished: bool,
}

/// Where the outcome of an event goes.
pub(crate) type Reply = oneshot::Sender<Result<Answer, Rejected>>;
/// A look at the state.
pub(crate) type Inspection = Box<dyn FnOnce(&State, Timestamp) + Send>;

/// What the driver is asked.
pub(crate) enum Request {
    Event(Event, Option<Reply>),
    Work(String, u64, oneshot::Sender<WorkAnswer>),
    Inspect(Inspection),
}

/// What the gRPC service holds of the driver; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) active: watch::Receiver<Option<Announcement>>,
}

impl Handle {
    /// Reports an event and waits until what it changed is durable.
    ///
    /// # Errors
    /// [`RequestError`] if it was rejected or the coordinator stops.
    pub async fn report(&self, event: Event) -> Result<Answer, RequestError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Event(event, Some(reply));
        let sent = self.requests.send(request).await;
        sent.map_err(|_| RequestError::Stopping)?;
        Ok(answer.await.map_err(|_| RequestError::Stopping)??)
    }

    /// Asks for work, for up to `wait_ms`.
    ///
    /// # Errors
    /// [`RequestError::Stopping`].
    pub async fn work(&self, worker: String, wait_ms: u64) -> Result<WorkAnswer, RequestError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Work(worker, wait_ms, reply);
        let sent = self.requests.send(request).await;
        sent.map_err(|_| RequestError::Stopping)?;
        answer.await.map_err(|_| RequestError::Stopping)
    }

    /// Looks at the state.
    ///
    /// # Errors
    /// [`RequestError::Stopping`].
    pub async fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, Timestamp) -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        let look: Inspection = Box::new(move |state, now| {
            let _ = reply.send(look(state, now)); // nobody waits any more: fine
        });
        let sent = self.requests.send(Request::Inspect(look)).await;
        sent.map_err(|_| RequestError::Stopping)?;
        answer.await.map_err(|_| RequestError::Stopping)
    }

    /// The current activation, and each later one. Ends when the driver does.
    #[must_use]
    pub fn activations(&self) -> watch::Receiver<Option<Announcement>> {
        self.active.clone()
    }
}
