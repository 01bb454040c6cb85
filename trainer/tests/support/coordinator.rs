//! A coordinator that announces what a test says and records what it hears.

use quarry_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use quarry_proto::v1::*;
use quarry_service::listen;
use quarry_trainer::negatives::Activation;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{Request, Response, Status};

/// What was heard.
#[derive(Default)]
pub struct Heard {
    pub swaps: Vec<ReportSwapRequest>,
    pub checkpoints: Vec<PublishCheckpointRequest>,
    pub progress: Vec<ReportProgressRequest>,
    pub watched_after: Vec<u64>,
}

/// State that outlives restarts.
#[derive(Clone)]
pub struct Script {
    newest: watch::Sender<Option<Activation>>,
    heard: Arc<Mutex<Heard>>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            newest: watch::Sender::new(None),
            heard: Arc::default(),
        }
    }
}

impl Script {
    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }

    pub fn announce(&self, activation: &Activation) {
        self.newest.send_replace(Some(activation.clone()));
    }
}

/// A running stub; dropping it kills it with all its connections.
pub struct Stub {
    runtime: Option<Runtime>,
    pub addr: SocketAddr,
}

impl Stub {
    pub fn start(script: &Script) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script)
    }

    pub fn start_at(addr: SocketAddr, script: &Script) -> Self {
        let runtime = Runtime::new().unwrap();
        let (listener, addr) = runtime.block_on(listen::bind(addr)).unwrap();
        let service = CoordinatorServer::new(script.clone());
        runtime.spawn(async move {
            let incoming = listen::incoming(listener);
            listen::server()
                .add_service(service)
                .serve_with_incoming(incoming)
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
    Err(Status::unimplemented("a trainer does not call this"))
}

#[tonic::async_trait]
impl Coordinator for Script {
    type WatchGenerationsStream =
        Pin<Box<dyn Stream<Item = Result<WatchGenerationsResponse, Status>> + Send>>;

    async fn watch_generations(
        &self,
        request: Request<WatchGenerationsRequest>,
    ) -> Answer<Self::WatchGenerationsStream> {
        let after = request.into_inner().after_activation;
        self.heard().watched_after.push(after);
        let fresh = move |newest: Option<Activation>| {
            newest.filter(|a| a.activation > after).map(|a| {
                Ok(WatchGenerationsResponse {
                    activation: a.activation,
                    generation: a.generation,
                    checkpoint: Some(a.checkpoint.into()),
                    manifest: Some(a.manifest.into()),
                })
            })
        };
        Ok(Response::new(Box::pin(
            WatchStream::new(self.newest.subscribe()).filter_map(fresh),
        )))
    }

    async fn publish_checkpoint(
        &self,
        request: Request<PublishCheckpointRequest>,
    ) -> Answer<PublishCheckpointResponse> {
        self.heard().checkpoints.push(request.into_inner());
        Ok(Response::new(PublishCheckpointResponse {}))
    }

    async fn report_swap(&self, request: Request<ReportSwapRequest>) -> Answer<ReportSwapResponse> {
        self.heard().swaps.push(request.into_inner());
        Ok(Response::new(ReportSwapResponse {}))
    }

    async fn report_progress(
        &self,
        request: Request<ReportProgressRequest>,
    ) -> Answer<ReportProgressResponse> {
        self.heard().progress.push(request.into_inner());
        Ok(Response::new(ReportProgressResponse {}))
    }

    async fn get_run(&self, _: Request<GetRunRequest>) -> Answer<GetRunResponse> {
        Ok(Response::new(GetRunResponse::default()))
    }

    async fn acquire_lease(&self, _: Request<AcquireLeaseRequest>) -> Answer<AcquireLeaseResponse> {
        unused()
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Answer<HeartbeatResponse> {
        unused()
    }

    async fn complete_task(&self, _: Request<CompleteTaskRequest>) -> Answer<CompleteTaskResponse> {
        unused()
    }

    async fn return_lease(&self, _: Request<ReturnLeaseRequest>) -> Answer<ReturnLeaseResponse> {
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
