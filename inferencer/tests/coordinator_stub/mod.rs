//! A coordinator that hands out scripted leases and records what it hears.

use quarry_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use quarry_proto::v1::*;
use quarry_service::{Token, auth::RequireToken, listen};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status};

/// What is handed out and what was heard.
#[derive(Default)]
pub struct Record {
    pub leases: VecDeque<Lease>,
    /// Leases whose next heartbeat is answered with a cancellation.
    pub cancel: Vec<u64>,
    /// Leases whose completion is refused.
    pub refuse: Vec<u64>,
    /// Whether the run goes on when the leases are given out.
    pub open: bool,
    pub heartbeats: Vec<HeartbeatRequest>,
    pub completed: Vec<CompleteTaskRequest>,
    pub returned: Vec<ReturnLeaseRequest>,
}

#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Record>>);

impl Script {
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap()
    }
}

/// A running stub; dropping it kills it with all its connections.
pub struct Stub {
    runtime: Option<Runtime>,
    pub addr: SocketAddr,
}

impl Stub {
    pub fn start(addr: SocketAddr, script: &Script, token: Option<Token>) -> Self {
        let runtime = Runtime::new().unwrap();
        let (listener, addr) = runtime.block_on(listen::bind(addr)).unwrap();
        let service = CoordinatorServer::with_interceptor(script.clone(), RequireToken::new(token));
        runtime.spawn(async move {
            listen::server()
                .add_service(service)
                .serve_with_incoming(listen::incoming(listener))
                .await
        });
        Self {
            runtime: Some(runtime),
            addr,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("a worker does not call this"))
}

#[tonic::async_trait]
impl Coordinator for Script {
    type WatchGenerationsStream = tokio_stream::Empty<Result<WatchGenerationsResponse, Status>>;

    /// Scripted leases first, then nothing more, or the end of the run.
    async fn acquire_lease(&self, _: Request<AcquireLeaseRequest>) -> Answer<AcquireLeaseResponse> {
        let (lease, open) = {
            let mut record = self.record();
            (record.leases.pop_front(), record.open)
        };
        if lease.is_none() && open {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let run_finished = lease.is_none() && !open;
        Ok(Response::new(AcquireLeaseResponse {
            lease,
            run_finished,
        }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answer<HeartbeatResponse> {
        let beat = request.into_inner();
        let mut record = self.record();
        let cancelled = record.cancel.contains(&beat.lease);
        record.heartbeats.push(beat);
        Ok(Response::new(HeartbeatResponse { cancelled }))
    }

    async fn complete_task(
        &self,
        request: Request<CompleteTaskRequest>,
    ) -> Answer<CompleteTaskResponse> {
        let mut record = self.record();
        if record.refuse.contains(&request.get_ref().lease) {
            return Err(Status::invalid_argument("it gave no object"));
        }
        record.completed.push(request.into_inner());
        Ok(Response::new(CompleteTaskResponse { accepted: true }))
    }

    async fn return_lease(
        &self,
        request: Request<ReturnLeaseRequest>,
    ) -> Answer<ReturnLeaseResponse> {
        self.record().returned.push(request.into_inner());
        Ok(Response::new(ReturnLeaseResponse {}))
    }

    async fn publish_checkpoint(
        &self,
        _: Request<PublishCheckpointRequest>,
    ) -> Answer<PublishCheckpointResponse> {
        unused()
    }

    async fn watch_generations(
        &self,
        _: Request<WatchGenerationsRequest>,
    ) -> Answer<Self::WatchGenerationsStream> {
        unused()
    }

    async fn report_swap(&self, _: Request<ReportSwapRequest>) -> Answer<ReportSwapResponse> {
        unused()
    }

    async fn report_progress(
        &self,
        _: Request<ReportProgressRequest>,
    ) -> Answer<ReportProgressResponse> {
        unused()
    }

    async fn get_run(&self, _: Request<GetRunRequest>) -> Answer<GetRunResponse> {
        unused()
    }

    async fn list_generations(
        &self,
        _: Request<ListGenerationsRequest>,
    ) -> Answer<ListGenerationsResponse> {
        unused()
    }

    async fn rollback(&self, _: Request<RollbackRequest>) -> Answer<RollbackResponse> {
        unused()
    }

    async fn pause_refresh(&self, _: Request<PauseRefreshRequest>) -> Answer<PauseRefreshResponse> {
        unused()
    }
}
