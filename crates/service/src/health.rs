//! The `grpc.health.v1` service on its own port, in plain text and without a
//! token: probes of an orchestrator speak neither TLS nor tokens.

use std::net::SocketAddr;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::error::{Result, ServiceError, causes};
use crate::listen;

/// The running health service; begins as "not serving".
pub struct Health {
    reporter: HealthReporter,
    addr: SocketAddr,
    server: JoinHandle<Result<()>>,
}

impl Health {
    /// Serves health on `addr` until `shutdown` is cancelled.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn serve(addr: SocketAddr, shutdown: CancellationToken) -> Result<Self> {
        let (listener, addr) = listen::bind(addr).await?;
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter
            .set_service_status("", ServingStatus::NotServing)
            .await;
        let serving = listen::server()
            .add_service(service)
            .serve_with_incoming_shutdown(
                listen::incoming(listener),
                shutdown.clone().cancelled_owned(),
            );
        let server = tokio::spawn(async move {
            let served = listen::until_drained(serving, &shutdown).await;
            served.map_err(|e| ServiceError::Server {
                addr,
                reason: causes(&e),
            })
        });
        Ok(Self {
            reporter,
            addr,
            server,
        })
    }

    /// The bound address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Says whether the process is ready for work.
    pub async fn set_serving(&self, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.reporter.set_service_status("", status).await;
    }

    /// Waits for the server's end, after shutdown.
    ///
    /// # Errors
    /// If it failed.
    pub async fn stopped(self) -> Result<()> {
        self.server.await.unwrap_or_else(|e| {
            Err(ServiceError::Server {
                addr: self.addr,
                reason: e.to_string(),
            })
        })
    }
}
