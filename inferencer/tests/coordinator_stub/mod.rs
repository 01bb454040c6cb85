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
    /// (lease, progress)
    pub heartbeats: Vec<(u64, f64)>,
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

    /// Scripted leases first, then the end of the run.
    async fn acquire_lease(&self, _: Request<AcquireLeaseRequest>) -> Answer<AcquireLeaseResponse> {
        let lease = self.record().leases.pop_front();
        let run_finished = lease.is_none();
        Ok(Response::new(AcquireLeaseResponse {
            lease,
            run_finished,
        }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answer<HeartbeatResponse> {
        let beat = request.into_inner();
        let mut record = self.record();
        record.heartbeats.push((beat.lease, beat.progress));
        let cancelled = record.cancel.contains(&beat.lease);
        Ok(Response::new(HeartbeatResponse { cancelled }))
    }

    async fn complete_task(
        &self,
        request: Request<CompleteTaskRequest>,
    ) -> Answer<CompleteTaskResponse> {
        self.record().completed.push(request.into_inner());
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
