//! The worker's loop: acquire a lease, do its task with heartbeats beside it,
//! deliver the output, again.
//!
//! Keeps the rule that a finished output is never lost to a coordinator's
//! restart: it is offered until somebody answers. Refuses: knowing what tasks do.

use crate::engine::Engine;
use crate::error::TaskError;
use crate::progress::Progress;
use quarry_client::Heartbeats;
use quarry_client::worker::{Acquired, Link};
use quarry_proto::{Lease, TaskOutput};
use quarry_service::CancellationToken;
use std::pin::pin;
use std::time::Duration;
use tonic::Status;

/// How long a stopping worker tries to reach the coordinator, and how long it
/// waits for the computing thread to notice.
const FAREWELL: Duration = Duration::from_secs(5);
/// Pause after a failed task; doubles with each failure in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after failed tasks.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why the loop ended in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The coordinator has no more work, ever.
    RunFinished,
    /// The process was asked to stop; its lease was returned.
    Stopped,
    /// One task was done, as asked for with `--once`.
    OneTask,
}

/// Why the loop cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The coordinator gives this worker nothing, as with a wrong token.
    #[error("the coordinator refused this worker: {}", .0.message())]
    Refused(Status),
    /// The GPU failed; the lease was returned, with blame where its task can be the reason.
    #[error(
        "{0}; this process can use it no more, so it ends: start the worker again, and on another GPU if this one fails again"
    )]
    DeviceLost(String),
}

/// What became of one lease.
enum Outcome {
    /// And what is next, if the answer said.
    Delivered(Option<Box<Lease>>),
    Dropped,
    Failed,
    Stopped,
    /// It was returned, and there will be no other; says why.
    Lost(String),
}

/// One worker: a link, an engine, a loop.
pub struct Worker {
    link: Link,
    engine: Engine,
    once: bool,
}

impl Worker {
    /// A worker that computes with `engine`; with `once` it ends after one task.
    #[must_use]
    pub fn new(link: Link, engine: Engine, once: bool) -> Self {
        Self { link, engine, once }
    }

    /// Works until the run is finished or `shutdown` is cancelled.
    ///
    /// # Errors
    /// The coordinator's refusal to give this worker anything, or a GPU that failed.
    pub async fn run(&self, shutdown: &CancellationToken) -> Result<Ended, WorkerError> {
        let mut pause = FIRST_PAUSE;
        let mut next: Option<Box<Lease>> = None;
        loop {
            let lease = match next.take() {
                // It came while the worker was asked to stop.
                Some(lease) if shutdown.is_cancelled() => {
                    self.part(&lease).await;
                    return Ok(Ended::Stopped);
                }
                Some(lease) => lease,
                None => tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Ok(Ended::Stopped),
                    acquired = self.link.acquire() => match acquired.map_err(WorkerError::Refused)? {
                        Acquired::RunFinished => return Ok(Ended::RunFinished),
                        Acquired::Nothing => continue,
                        Acquired::Lease(lease) => lease,
                    },
                },
            };
            match self.work(&lease, shutdown).await {
                Outcome::Stopped => return Ok(Ended::Stopped),
                Outcome::Lost(why) => return Err(WorkerError::DeviceLost(why)),
                Outcome::Failed => {
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(Ended::Stopped),
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    }
                }
                Outcome::Delivered(lease) => (pause, next) = (FIRST_PAUSE, lease),
                Outcome::Dropped => pause = FIRST_PAUSE,
            }
            if self.once {
                return Ok(Ended::OneTask);
            }
        }
    }

    async fn work(&self, lease: &Lease, shutdown: &CancellationToken) -> Outcome {
        let (generation, attempt) = (lease.task.generation, lease.attempt);
        tracing::debug!(lease = lease.id, generation, attempt, work = %lease.task.work, "task begun");
        let progress = Progress::default();
        let (share, cancel) = (progress.clone(), progress.clone());
        let heartbeats = Heartbeats::start(
            self.link.clone(),
            lease.clone(),
            move || share.fraction(),
            move || cancel.cancel(),
        );
        let mut task = pin!(self.engine.perform(lease.task.clone(), progress.clone()));
        let result = tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                progress.cancel();
                self.part(lease).await;
                // libtorch must not be torn down under a running computation.
                let _ = tokio::time::timeout(FAREWELL, task).await;
                return Outcome::Stopped;
            }
            result = &mut task => result,
        };
        drop(heartbeats);
        match result {
            Err(error @ TaskError::DeviceLost(_)) => {
                let reported = self.report(lease, &error, shutdown).await;
                match reported {
                    Outcome::Stopped => Outcome::Stopped,
                    _ => Outcome::Lost(error.to_string()),
                }
            }
            // Completed before the cancellation was noticed counts as cancelled too:
            // the coordinator has said that it does not want it.
            _ if progress.is_cancelled() => Outcome::Dropped,
            Err(TaskError::Cancelled) => Outcome::Dropped,
            Ok(output) => self.deliver(lease, &output, shutdown).await,
            Err(error) => self.report(lease, &error, shutdown).await,
        }
    }

    async fn deliver(
        &self,
        lease: &Lease,
        output: &TaskOutput,
        shutdown: &CancellationToken,
    ) -> Outcome {
        let go_on = !self.once && !shutdown.is_cancelled();
        let delivered = tokio::select! {
            biased;
            delivered = self.link.complete(lease, output, go_on) => delivered,
            () = grace(shutdown) => return Outcome::Stopped,
        };
        match delivered {
            Ok(completed) => {
                if !completed.accepted {
                    tracing::info!(work = %lease.task.work, "another attempt had already won");
                }
                Outcome::Delivered(completed.next)
            }
            // Returned, or the task would be held until the lease runs out.
            Err(status) => {
                let reason = format!("the coordinator refused the output: {}", status.message());
                tracing::warn!(work = %lease.task.work, "{reason}");
                self.report(lease, &TaskError::Refused(reason), shutdown)
                    .await
            }
        }
    }

    async fn report(
        &self,
        lease: &Lease,
        error: &TaskError,
        shutdown: &CancellationToken,
    ) -> Outcome {
        let (reason, failed) = (error.to_string(), error.blames_task());
        let returned = tokio::select! {
            biased;
            returned = self.link.give_back(lease.id, lease.epoch, &reason, failed) => returned,
            () = grace(shutdown) => return Outcome::Stopped,
        };
        if let Err(status) = returned {
            let reason = status.message();
            tracing::debug!(
                lease = lease.id,
                reason,
                "the coordinator did not know the lease"
            );
        }
        Outcome::Failed
    }

    /// Returns the lease before the process stops, if the coordinator is there.
    async fn part(&self, lease: &Lease) {
        let returned = self
            .link
            .give_back(lease.id, lease.epoch, "the worker is stopping", false);
        match tokio::time::timeout(FAREWELL, returned).await {
            Ok(Ok(())) => tracing::info!(work = %lease.task.work, "lease returned"),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(work = %lease.task.work, "lease not returned; it will run out");
            }
        }
    }
}

/// Completes some seconds after the shutdown was asked for.
async fn grace(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(FAREWELL).await;
}
