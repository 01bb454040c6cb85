//! The `quarry.v1.Coordinator` service: messages in, events to the driver,
//! answers out. Decides nothing; checks only what the wire cannot express.

use crate::handle::{Handle, RequestError};
use crate::role::Role;
use crate::state::{
    Announcement, Answer, Event, LeaseKey, Refusal, Rejected, TaskKey, TrainerReport,
};
use crate::status;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, future, stream};
use quarry_artifacts::{ArtifactError, CheckpointManifest, CheckpointRef, Digest, Store};
use quarry_proto::v1::coordinator_server::Coordinator;
use quarry_proto::{ConversionError, TaskOutput, v1};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

/// Requests to the store at once.
const REQUESTS: usize = 16;

/// The service.
pub struct Service {
    role: watch::Receiver<Role>,
    store: Store,
}

impl Service {
    /// A service in front of the driver, while there is one. The store is read to
    /// check checkpoints.
    #[must_use]
    pub fn new(role: watch::Receiver<Role>, store: Store) -> Self {
        Self { role, store }
    }

    fn handle(&self) -> Result<Handle, Status> {
        self.role.borrow().handle()
    }

    async fn report(&self, event: Event) -> Result<Answer, Status> {
        self.handle()?.report(event).await.map_err(refusal)
    }

    /// Work that is ready now for a worker whose completion is durable, and is answered
    /// whatever comes of this.
    async fn next_lease(&self, worker: String) -> Option<v1::Lease> {
        let answer = self.handle().ok()?.work(worker, 0).await;
        answer.ok()?.lease.map(Into::into)
    }

    /// Checks that a checkpoint is there, in full, and is what it is said to be: on
    /// its word older ones are deleted.
    async fn check(&self, checkpoint: &CheckpointRef) -> Result<(), Status> {
        let manifest = CheckpointManifest::read(&self.store, &checkpoint.manifest).await;
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error @ (ArtifactError::NotFound { .. } | ArtifactError::Invalid { .. })) => {
                return Err(Status::failed_precondition(error.to_string()));
            }
            Err(error) => return Err(Status::unavailable(error.to_string())),
        };
        let found = manifest.reference();
        if found == *checkpoint {
            return self.check_files(manifest).await;
        }
        Err(Status::invalid_argument(format!(
            "manifest {} is of checkpoint {} at step {}, not of {} at step {}; publish the checkpoint it names",
            checkpoint.manifest,
            found.digest.short(),
            found.step,
            checkpoint.digest.short(),
            checkpoint.step,
        )))
    }

    async fn check_files(&self, manifest: CheckpointManifest) -> Result<(), Status> {
        let sizes = stream::iter(manifest.files.into_values())
            .map(|file| async move { Ok((self.store.head(&file.path).await?, file)) })
            .buffered(REQUESTS);
        let mut damaged = sizes.try_filter(|(found, file)| {
            let whole = *found == Some(file.size);
            future::ready(!whole)
        });
        let first = damaged.next().await.transpose();
        match first.map_err(|error: ArtifactError| Status::unavailable(error.to_string()))? {
            None => Ok(()),
            Some((_, file)) => Err(Status::failed_precondition(format!(
                "{} is missing or short; publish the checkpoint again",
                file.path
            ))),
        }
    }
}

fn refusal(error: RequestError) -> Status {
    let message = error.to_string();
    match error {
        RequestError::Stopping => Status::unavailable(message),
        RequestError::Rejected(Rejected::Invalid(_)) => Status::invalid_argument(message),
        RequestError::Rejected(Rejected::Unknown(_)) => Status::not_found(message),
        RequestError::Rejected(Rejected::Precondition(_)) => Status::failed_precondition(message),
    }
}

fn malformed(error: ConversionError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A worker must have a name: leases are bound to it.
fn worker_of(worker: String) -> Result<String, Status> {
    if worker.is_empty() || worker.len() > 200 {
        let message = "the worker's name is empty or longer than 200 bytes";
        return Err(Status::invalid_argument(message));
    }
    Ok(worker)
}

fn announce(announcement: Announcement) -> v1::WatchGenerationsResponse {
    v1::WatchGenerationsResponse {
        activation: announcement.activation,
        generation: announcement.generation,
        checkpoint: Some(announcement.checkpoint.into()),
        manifest: Some(announcement.manifest.into()),
    }
}

fn refused_generation(refusal: v1::Refusal) -> Refusal {
    Refusal {
        activation: refusal.activation,
        generation: refusal.generation,
        reason: refusal.reason,
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Coordinator for Service {
    type WatchGenerationsStream = BoxStream<'static, Result<v1::WatchGenerationsResponse, Status>>;

    async fn publish_checkpoint(
        &self,
        request: Request<v1::PublishCheckpointRequest>,
    ) -> Reply<v1::PublishCheckpointResponse> {
        let message = request.into_inner();
        let missing =
            || ConversionError::new("PublishCheckpointRequest", "checkpoint", "is missing");
        let checkpoint = message.checkpoint.ok_or_else(missing).map_err(malformed)?;
        let checkpoint = CheckpointRef::try_from(checkpoint).map_err(malformed)?;
        self.check(&checkpoint).await?;
        let is_final = message.r#final;
        let event = Event::CheckpointPublished {
            checkpoint,
            is_final,
        };
        self.report(event).await?;
        Ok(Response::new(v1::PublishCheckpointResponse {}))
    }

    async fn watch_generations(
        &self,
        request: Request<v1::WatchGenerationsRequest>,
    ) -> Reply<Self::WatchGenerationsStream> {
        let after = request.into_inner().after_activation;
        let activations = WatchStream::new(self.handle()?.activations());
        let newer = activations.filter_map(move |announcement| {
            let newer = announcement.filter(|a| a.activation > after);
            future::ready(newer.map(|a| Ok(announce(a))))
        });
        Ok(Response::new(newer.boxed()))
    }

    async fn acquire_lease(
        &self,
        request: Request<v1::AcquireLeaseRequest>,
    ) -> Reply<v1::AcquireLeaseResponse> {
        let message = request.into_inner();
        let worker = worker_of(message.worker)?;
        let answer = self
            .handle()?
            .work(worker, u64::from(message.wait_ms))
            .await;
        let answer = answer.map_err(refusal)?;
        Ok(Response::new(v1::AcquireLeaseResponse {
            lease: answer.lease.map(Into::into),
            run_finished: answer.finished,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Reply<v1::HeartbeatResponse> {
        let message = request.into_inner();
        let task = message.generation.zip(message.task);
        let event = Event::Heartbeat {
            worker: worker_of(message.worker)?,
            lease: LeaseKey {
                epoch: message.epoch,
                id: message.lease,
            },
            task: task.map(|(generation, number)| TaskKey { generation, number }),
            progress: if message.progress.is_finite() {
                message.progress
            } else {
                0.0
            },
        };
        let cancelled = self.report(event).await? == Answer::Beat { cancelled: true };
        Ok(Response::new(v1::HeartbeatResponse { cancelled }))
    }

    async fn complete_task(
        &self,
        request: Request<v1::CompleteTaskRequest>,
    ) -> Reply<v1::CompleteTaskResponse> {
        let message = request.into_inner();
        let worker = worker_of(message.worker)?;
        let output = message.output.unwrap_or_default();
        let event = Event::TaskCompleted {
            worker: worker.clone(),
            lease: LeaseKey {
                epoch: message.epoch,
                id: message.lease,
            },
            task: TaskKey {
                generation: message.generation,
                number: message.task,
            },
            output: TaskOutput::try_from(output).map_err(malformed)?,
        };
        let accepted = self.report(event).await? == Answer::Completed { accepted: true };
        let next = if message.go_on {
            self.next_lease(worker).await
        } else {
            None
        };
        Ok(Response::new(v1::CompleteTaskResponse { accepted, next }))
    }

    async fn return_lease(
        &self,
        request: Request<v1::ReturnLeaseRequest>,
    ) -> Reply<v1::ReturnLeaseResponse> {
        let message = request.into_inner();
        let event = Event::LeaseReturned {
            worker: worker_of(message.worker)?,
            lease: LeaseKey {
                epoch: message.epoch,
                id: message.lease,
            },
            reason: message.reason,
            failed: message.failed,
        };
        self.report(event).await?;
        Ok(Response::new(v1::ReturnLeaseResponse {}))
    }

    async fn report_swap(
        &self,
        request: Request<v1::ReportSwapRequest>,
    ) -> Reply<v1::ReportSwapResponse> {
        let message = request.into_inner();
        let digest: Result<Digest, ArtifactError> = message.checkpoint_digest.parse();
        let event = Event::TrainerSwapped {
            step: message.step,
            activation: message.activation,
            generation: message.generation,
            checkpoint: digest.map_err(|e| Status::invalid_argument(e.to_string()))?,
            session: message.session,
        };
        self.report(event).await?;
        Ok(Response::new(v1::ReportSwapResponse {}))
    }

    async fn report_progress(
        &self,
        request: Request<v1::ReportProgressRequest>,
    ) -> Reply<v1::ReportProgressResponse> {
        let message = request.into_inner();
        let report = TrainerReport {
            step: message.step,
            total_steps: message.total_steps,
            loss: message.loss,
            pairs_per_second: message.pairs_per_second,
            generation: message.generation,
            blocked: message.blocked,
            refusal: message.refusal.map(refused_generation),
            unpublished: message.unpublished,
        };
        self.report(Event::TrainerProgressed(report)).await?;
        Ok(Response::new(v1::ReportProgressResponse {}))
    }

    async fn get_run(&self, _: Request<v1::GetRunRequest>) -> Reply<v1::GetRunResponse> {
        let overview = self.handle()?.inspect(status::overview).await;
        Ok(Response::new(overview.map_err(refusal)?))
    }

    async fn list_generations(
        &self,
        _: Request<v1::ListGenerationsRequest>,
    ) -> Reply<v1::ListGenerationsResponse> {
        let list = self
            .handle()?
            .inspect(|state, _| status::generations(state))
            .await;
        Ok(Response::new(list.map_err(refusal)?))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Reply<v1::RollbackResponse> {
        let generation = request.into_inner().generation;
        let answer = self.report(Event::RollbackRequested { generation }).await?;
        let Answer::Activated { activation } = answer else {
            return Err(Status::internal(
                "a rollback was answered without an activation",
            ));
        };
        Ok(Response::new(v1::RollbackResponse { activation }))
    }

    async fn pause_refresh(
        &self,
        request: Request<v1::PauseRefreshRequest>,
    ) -> Reply<v1::PauseRefreshResponse> {
        let paused = request.into_inner().paused;
        self.report(Event::PauseRequested { paused }).await?;
        Ok(Response::new(v1::PauseRefreshResponse {}))
    }
}
