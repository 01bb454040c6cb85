//! The coordinator as a worker sees it: acquire, heartbeat, complete, return.
//!
//! Owns: deadlines of calls and the conversion to domain types. Refuses:
//! deciding what to do with an answer.

use crate::absence::until_answered;
use crate::overview::look;
use crate::{Client, DEADLINE};
use quarry_proto::{Lease, TaskOutput, v1};
use quarry_service::patience::within;
use quarry_service::{ServiceChannel, ServiceError, Token};
use std::time::Duration;
use tonic::Status;

/// How long the coordinator may hold an acquire call open.
const LONG_POLL: Duration = Duration::from_secs(10);

/// One worker's connection to the coordinator; clones share the channel.
#[derive(Clone)]
pub struct Link {
    client: Client,
    /// The addresses of the coordinators, for the log.
    urls: String,
    worker: String,
}

/// The coordinator's answer to a request for work.
#[derive(Debug)]
pub enum Acquired {
    /// Work.
    Lease(Box<Lease>),
    /// No work yet.
    Nothing,
    /// No work ever again.
    RunFinished,
}

/// The coordinator's answer to a completion.
#[derive(Debug)]
pub struct Completed {
    /// `false`: another attempt had won.
    pub accepted: bool,
    /// The next task.
    pub next: Option<Box<Lease>>,
}

impl Link {
    /// A link for the worker called `worker`, unique to this process, to whichever
    /// coordinator of `urls` (separated by commas) leads. Makes no call: it may come
    /// later.
    ///
    /// # Errors
    /// If one of `urls` is no service address.
    pub fn new(urls: &str, token: Option<&Token>, worker: String) -> Result<Self, ServiceError> {
        let channel = ServiceChannel::lazy(urls, token)?;
        let client =
            Client::new(channel).max_decoding_message_size(quarry_proto::MAX_MESSAGE_BYTES);
        Ok(Self {
            client,
            urls: urls.to_owned(),
            worker,
        })
    }

    /// Waits until the coordinator has answered once, at most `patience`. Afterwards it
    /// may go away for as long as it likes.
    ///
    /// # Errors
    /// The coordinator's refusal, or [`tonic::Code::DeadlineExceeded`].
    pub async fn greet(&self, patience: Duration) -> Result<(), Status> {
        let client = &self.client;
        let answered = until_answered("greet the coordinator", self.at(), || look(client));
        match tokio::time::timeout(patience, answered).await {
            Ok(answer) => answer.map(|_| ()),
            Err(_) => {
                let reason = format!("no answer in {} s", patience.as_secs());
                Err(Status::deadline_exceeded(reason))
            }
        }
    }

    fn at(&self) -> Option<&str> {
        Some(self.urls.as_str())
    }

    /// Waits for work, outlasting an absent coordinator.
    ///
    /// # Errors
    /// The coordinator's refusal, such as a wrong token.
    pub async fn acquire(&self) -> Result<Acquired, Status> {
        let answer = until_answered("acquire a lease", self.at(), || {
            let mut client = self.client.clone();
            let request = v1::AcquireLeaseRequest {
                worker: self.worker.clone(),
                wait_ms: u32::try_from(LONG_POLL.as_millis()).unwrap_or(u32::MAX),
            };
            within(LONG_POLL + DEADLINE, async move {
                client.acquire_lease(request).await
            })
        })
        .await?;
        if answer.run_finished {
            return Ok(Acquired::RunFinished);
        }
        let lease = self.read(answer.lease).await?;
        Ok(lease.map_or(Acquired::Nothing, Acquired::Lease))
    }

    /// One that cannot be read is returned: a coordinator of another version must hear
    /// of it.
    async fn read(&self, wire: Option<v1::Lease>) -> Result<Option<Box<Lease>>, Status> {
        let Some(wire) = wire else {
            return Ok(None);
        };
        let (id, epoch) = (wire.id, wire.epoch);
        match Lease::try_from(wire) {
            Ok(lease) => Ok(Some(Box::new(lease))),
            Err(error) => {
                tracing::warn!(lease = id, %error, "returned a lease that cannot be read");
                self.give_back(id, epoch, &error.to_string(), true).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(None)
            }
        }
    }

    /// One attempt to keep `lease` alive; `true` means the task is cancelled.
    ///
    /// # Errors
    /// The failure of the call, or the coordinator's refusal.
    pub async fn heartbeat(&self, lease: &Lease, progress: f64) -> Result<bool, Status> {
        let mut client = self.client.clone();
        let request = v1::HeartbeatRequest {
            worker: self.worker.clone(),
            lease: lease.id,
            epoch: lease.epoch,
            progress,
            generation: Some(lease.task.generation),
            task: Some(lease.task.number),
        };
        let limit = lease.patience().min(DEADLINE);
        let answer = within(limit, async move { client.heartbeat(request).await }).await?;
        Ok(answer.cancelled)
    }

    /// Delivers a finished task, outlasting an absent coordinator. With `go_on` the
    /// answer brings another, if one is ready: most of the time [`Link::acquire`] need
    /// not be called.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub async fn complete(
        &self,
        lease: &Lease,
        output: &TaskOutput,
        go_on: bool,
    ) -> Result<Completed, Status> {
        // A lease in an answer that got lost runs out; a second one would, too.
        let mut go_on = go_on;
        let answer = until_answered("deliver a finished task", self.at(), || {
            let mut client = self.client.clone();
            let request = v1::CompleteTaskRequest {
                worker: self.worker.clone(),
                lease: lease.id,
                epoch: lease.epoch,
                generation: lease.task.generation,
                task: lease.task.number,
                output: Some(output.clone().into()),
                go_on: std::mem::take(&mut go_on),
            };
            within(DEADLINE, async move { client.complete_task(request).await })
        })
        .await?;
        Ok(Completed {
            accepted: answer.accepted,
            // The completion stands, whatever became of a lease that cannot be read.
            next: self.read(answer.next).await.ok().flatten(),
        })
    }

    /// Gives a lease back undone, outlasting an absent coordinator. `failed`
    /// says that the task itself failed, as against a shutdown.
    ///
    /// # Errors
    /// The coordinator's refusal.
    pub async fn give_back(
        &self,
        lease: u64,
        epoch: u64,
        reason: &str,
        failed: bool,
    ) -> Result<(), Status> {
        until_answered("return a lease", self.at(), || {
            let mut client = self.client.clone();
            let request = v1::ReturnLeaseRequest {
                worker: self.worker.clone(),
                lease,
                epoch,
                reason: reason.to_owned(),
                failed,
            };
            within(DEADLINE, async move { client.return_lease(request).await })
        })
        .await?;
        Ok(())
    }
}
