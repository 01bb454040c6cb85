//! What workers, trainer and operator say to a coordinator. What it answers is a
//! claim, which goes into the books the moment it is made.

use crate::audit::Audit;
use crate::mutation::{self, Bug};
use crate::network::{Link, is_absence};
use futures::StreamExt;
use quarry_proto::v1;
use quarry_proto::v1::coordinator_server::Coordinator;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// How long a call waits for its answer, in milliseconds.
const DEADLINE_MS: u64 = 10_000;
/// How long a request for work waits at the coordinator.
const LONG_POLL_MS: u32 = 10_000;

/// Activations as a coordinator announces them.
pub type Activations =
    futures::stream::BoxStream<'static, Result<v1::WatchGenerationsResponse, Status>>;

impl Link {
    fn audit(&self) -> Arc<Audit> {
        Arc::clone(&self.cluster.audit)
    }

    pub async fn acquire(&self) -> Result<v1::AcquireLeaseResponse, Status> {
        let request = v1::AcquireLeaseRequest {
            worker: self.process.name.clone(),
            wait_ms: LONG_POLL_MS,
        };
        let (world, audit) = (Arc::clone(self.world()), self.audit());
        let limit = u64::from(LONG_POLL_MS) + DEADLINE_MS;
        self.call(limit, request, move |member, request| {
            let (world, audit) = (Arc::clone(&world), Arc::clone(&audit));
            async move {
                let mut answer = member.service.acquire_lease(Request::new(request)).await?;
                if let Some(lease) = &mut answer.get_mut().lease {
                    mutation::granted(&world, audit.newest_checkpoint(), lease);
                }
                Ok(answer)
            }
        })
        .await
    }

    pub async fn heartbeat(
        &self,
        limit_ms: u64,
        request: v1::HeartbeatRequest,
    ) -> Result<bool, Status> {
        let limit = limit_ms.min(DEADLINE_MS);
        let answer = self.call(limit, request, |member, request| async move {
            member.service.heartbeat(Request::new(request)).await
        });
        Ok(answer.await?.cancelled)
    }

    pub async fn complete(
        &self,
        request: v1::CompleteTaskRequest,
    ) -> Result<v1::CompleteTaskResponse, Status> {
        let (world, audit) = (Arc::clone(self.world()), self.audit());
        let answer = self.call(DEADLINE_MS, request, move |member, request| {
            let (world, audit) = (Arc::clone(&world), Arc::clone(&audit));
            async move {
                let claim = request.clone();
                let mut answer = member.service.complete_task(Request::new(request)).await?;
                let accepted = mutation::accepted(&world, answer.get_ref().accepted);
                answer.get_mut().accepted = accepted;
                if let Some(lease) = &mut answer.get_mut().next {
                    mutation::granted(&world, audit.newest_checkpoint(), lease);
                }
                if accepted {
                    audit.accepted(&claim);
                }
                Ok(answer)
            }
        });
        answer.await
    }

    pub async fn give_back(&self, request: v1::ReturnLeaseRequest) -> Result<(), Status> {
        let answer = self.call(DEADLINE_MS, request, |member, request| async move {
            member.service.return_lease(Request::new(request)).await
        });
        answer.await.map(|_| ())
    }

    pub async fn publish_checkpoint(
        &self,
        request: v1::PublishCheckpointRequest,
    ) -> Result<(), Status> {
        let (world, audit) = (Arc::clone(self.world()), self.audit());
        let answer = self.call(DEADLINE_MS, request, move |member, request| {
            let (early, audit) = (world.bug == Some(Bug::EarlyAnswer), Arc::clone(&audit));
            async move {
                let claim = request.checkpoint.clone();
                let answer = if early {
                    Response::new(v1::PublishCheckpointResponse {})
                } else {
                    member
                        .service
                        .publish_checkpoint(Request::new(request))
                        .await?
                };
                claim.iter().for_each(|c| audit.acknowledged_checkpoint(c));
                Ok(answer)
            }
        });
        answer.await.map(|_| ())
    }

    pub async fn report_swap(&self, request: v1::ReportSwapRequest) -> Result<(), Status> {
        let audit = self.audit();
        let answer = self.call(DEADLINE_MS, request, move |member, request| {
            let audit = Arc::clone(&audit);
            async move {
                let claim = request.clone();
                let answer = member.service.report_swap(Request::new(request)).await?;
                audit.acknowledged_swap(&claim);
                Ok(answer)
            }
        });
        answer.await.map(|_| ())
    }

    pub async fn report_progress(&self, request: v1::ReportProgressRequest) -> Result<(), Status> {
        let answer = self.call(DEADLINE_MS, request, |member, request| async move {
            member.service.report_progress(Request::new(request)).await
        });
        answer.await.map(|_| ())
    }

    pub async fn status(&self) -> Result<v1::GetRunResponse, Status> {
        self.call(
            DEADLINE_MS,
            v1::GetRunRequest {},
            |member, request| async move { member.service.get_run(Request::new(request)).await },
        )
        .await
    }

    pub async fn roll_back(&self, generation: u64) -> Result<(), Status> {
        let audit = self.audit();
        let request = v1::RollbackRequest { generation };
        let answer = self.call(DEADLINE_MS, request, move |member, request| {
            let audit = Arc::clone(&audit);
            async move {
                let answer = member.service.rollback(Request::new(request)).await?;
                audit.announced(answer.get_ref().activation, generation);
                Ok(answer)
            }
        });
        answer.await.map(|_| ())
    }

    pub async fn pause(&self, paused: bool) -> Result<(), Status> {
        let request = v1::PauseRefreshRequest { paused };
        let answer = self.call(DEADLINE_MS, request, |member, request| async move {
            member.service.pause_refresh(Request::new(request)).await
        });
        answer.await.map(|_| ())
    }

    /// Activations after number `after`, until the stream breaks.
    pub async fn watch(&self, after: u64) -> Result<Activations, Status> {
        let request = v1::WatchGenerationsRequest {
            after_activation: after,
        };
        let audit = self.audit();
        self.call(DEADLINE_MS, request, move |member, request| {
            let audit = Arc::clone(&audit);
            async move {
                let stream = member
                    .service
                    .watch_generations(Request::new(request))
                    .await?;
                let audited = stream.into_inner().inspect(move |item| {
                    if let Ok(a) = item {
                        audit.announced(a.activation, a.generation);
                    }
                });
                Ok(Response::new(audited.boxed()))
            }
        })
        .await
    }

    /// Repeats `call` until a coordinator answers it.
    ///
    /// # Errors
    /// Its refusal.
    pub async fn until_answered<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        loop {
            match call().await {
                Err(status) if is_absence(&status) => {
                    let ms = self.world().between(50..2_000);
                    self.process.sleep(ms).await;
                }
                answer => return answer,
            }
        }
    }
}
