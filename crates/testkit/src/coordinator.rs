//! A stub of the coordinator over real gRPC: it says what its script says
//! and records what it hears. Refuses every call of a user's.

use quarry_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use quarry_proto::v1::*;
use quarry_service::{Token, auth::RequireToken, listen};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{Request, Response, Status};

/// What workers, and a trainer that asks for generations, are told.
#[derive(Debug, Default)]
pub struct Orders {
    /// Leases to hand out, in order.
    pub leases: VecDeque<Lease>,
    /// Leases whose heartbeats are answered with a cancellation.
    pub cancel: Vec<u64>,
    /// Leases whose completion is refused.
    pub refuse: Vec<u64>,
    /// Whether the run goes on when the leases are given out.
    pub open: bool,
    /// Generations that count as published.
    pub generations: Vec<GenerationSummary>,
}

/// What trainer and workers said, in order.
#[derive(Debug, Default)]
pub struct Heard {
    /// Swaps of the trainer.
    pub swaps: Vec<ReportSwapRequest>,
    /// Checkpoints of the trainer.
    pub checkpoints: Vec<PublishCheckpointRequest>,
    /// Progress of the trainer.
    pub progress: Vec<ReportProgressRequest>,
    /// The activations after which the trainer asked to be told of new ones.
    pub watched_after: Vec<u64>,
    /// Requests for work.
    pub acquired: usize,
    /// Signs of life of workers.
    pub heartbeats: Vec<HeartbeatRequest>,
    /// Tasks done.
    pub completed: Vec<CompleteTaskRequest>,
    /// Tasks given back.
    pub returned: Vec<ReturnLeaseRequest>,
}

/// What is to be said and what was heard; outlives restarts of the stub.
#[derive(Debug, Clone)]
pub struct Script {
    newest: watch::Sender<Option<WatchGenerationsResponse>>,
    orders: Arc<Mutex<Orders>>,
    heard: Arc<Mutex<Heard>>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            newest: watch::Sender::new(None),
            orders: Arc::default(),
            heard: Arc::default(),
        }
    }
}

impl Script {
    /// Tells the trainer of an activation; only the newest is ever told.
    pub fn announce(&self, activation: &WatchGenerationsResponse) {
        self.newest.send_replace(Some(activation.clone()));
    }

    /// What workers are told, to be changed at any time.
    ///
    /// # Panics
    /// If a test panicked while it held this.
    pub fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap()
    }

    /// What was heard so far; nothing more is heard while this is held.
    ///
    /// # Panics
    /// If a test panicked while it held this.
    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }
}

/// A running stub; dropping it kills it with all its connections.
#[derive(Debug)]
pub struct Stub {
    runtime: Option<Runtime>,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Stub {
    /// Starts on a free port.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn start(script: &Script) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), script, None)
    }

    /// Starts at `addr`, and demands `token` of whoever calls if there is one.
    ///
    /// # Panics
    /// If the address cannot be had.
    #[must_use]
    pub fn start_at(addr: SocketAddr, script: &Script, token: Option<Token>) -> Self {
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

    /// What `--coordinator` is to be given.
    #[must_use]
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
    Err(Status::unimplemented("only a user calls this"))
}

#[tonic::async_trait]
impl Coordinator for Script {
    type WatchGenerationsStream =
        Pin<Box<dyn Stream<Item = Result<WatchGenerationsResponse, Status>> + Send>>;

    async fn publish_checkpoint(
        &self,
        request: Request<PublishCheckpointRequest>,
    ) -> Answer<PublishCheckpointResponse> {
        self.heard().checkpoints.push(request.into_inner());
        Ok(Response::new(PublishCheckpointResponse {}))
    }

    async fn watch_generations(
        &self,
        request: Request<WatchGenerationsRequest>,
    ) -> Answer<Self::WatchGenerationsStream> {
        let after = request.into_inner().after_activation;
        self.heard().watched_after.push(after);
        let fresh = move |newest: Option<WatchGenerationsResponse>| {
            newest.filter(|a| a.activation > after).map(Ok)
        };
        Ok(Response::new(Box::pin(
            WatchStream::new(self.newest.subscribe()).filter_map(fresh),
        )))
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

    /// Scripted leases first, then nothing more, or the end of the run.
    async fn acquire_lease(&self, _: Request<AcquireLeaseRequest>) -> Answer<AcquireLeaseResponse> {
        self.heard().acquired += 1;
        let (lease, open) = {
            let mut orders = self.orders();
            (orders.leases.pop_front(), orders.open)
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
        let cancelled = self.orders().cancel.contains(&beat.lease);
        self.heard().heartbeats.push(beat);
        Ok(Response::new(HeartbeatResponse { cancelled }))
    }

    async fn complete_task(
        &self,
        request: Request<CompleteTaskRequest>,
    ) -> Answer<CompleteTaskResponse> {
        if self.orders().refuse.contains(&request.get_ref().lease) {
            return Err(Status::invalid_argument("it gave no object"));
        }
        let go_on = request.get_ref().go_on;
        self.heard().completed.push(request.into_inner());
        let next = go_on.then(|| self.orders().leases.pop_front()).flatten();
        let accepted = true;
        Ok(Response::new(CompleteTaskResponse { accepted, next }))
    }

    async fn return_lease(
        &self,
        request: Request<ReturnLeaseRequest>,
    ) -> Answer<ReturnLeaseResponse> {
        self.heard().returned.push(request.into_inner());
        Ok(Response::new(ReturnLeaseResponse {}))
    }

    /// Says only that somebody is there.
    async fn get_run(&self, _: Request<GetRunRequest>) -> Answer<GetRunResponse> {
        Ok(Response::new(GetRunResponse::default()))
    }

    async fn list_generations(
        &self,
        _: Request<ListGenerationsRequest>,
    ) -> Answer<ListGenerationsResponse> {
        let generations = self.orders().generations.clone();
        Ok(Response::new(ListGenerationsResponse {
            generations,
            ..ListGenerationsResponse::default()
        }))
    }

    async fn rollback(&self, _: Request<RollbackRequest>) -> Answer<RollbackResponse> {
        unused()
    }

    async fn pause_refresh(&self, _: Request<PauseRefreshRequest>) -> Answer<PauseRefreshResponse> {
        unused()
    }
}
