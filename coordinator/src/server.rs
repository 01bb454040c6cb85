//! The process: opens the store, takes the run over and serves until told to
//! stop.

use crate::driver::{Driver, DriverError};
use crate::grpc::Service;
use crate::log::LogError;
use anyhow::{Context, Result, bail};
use quarry_artifacts::{ArtifactError, RunDocument, Store};
use quarry_proto::MAX_MESSAGE_BYTES;
use quarry_proto::v1::coordinator_server::CoordinatorServer;
use quarry_service::auth::RequireToken;
use quarry_service::health::Health;
use quarry_service::{CancellationToken, ServiceArgs, listen};
use std::hash::{BuildHasher, RandomState};
use tonic::service::interceptor::InterceptedService;

/// Exit code of a process that another coordinator fenced (law 6): restarting
/// it would only fence the other one.
pub const FENCED_EXIT: u8 = 3;
/// Exit code of every other failure.
const FAILURE_EXIT: u8 = 1;

/// The exit code for a failure of [`serve`].
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(DriverError::Log(LogError::Fenced { .. })) => FENCED_EXIT,
        _ => FAILURE_EXIT,
    }
}

/// Coordinates the run in the store at `address` until `shutdown`.
///
/// # Errors
/// If the store holds no run or cannot guard the log, or another coordinator
/// takes over (law 6).
pub async fn serve(address: &str, args: &ServiceArgs, shutdown: CancellationToken) -> Result<()> {
    let token = args.token()?;
    let store = Store::open_existing(address).await?;
    let run = read_run(&store).await?;
    store.probe_create_if_absent().await?;
    let health = match args.health_listen {
        Some(addr) => Some(Health::serve(addr, shutdown.clone()).await?),
        None => None,
    };
    let (driver, handle) = Driver::start(store.clone(), &run, &writer_id()).await?;
    let (listener, bound) = listen::bind(args.listen).await?;
    args.announce(bound)?;
    if let Some(health) = &health {
        health.set_serving(true).await;
    }
    let service = CoordinatorServer::new(Service::new(handle, store))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let service = InterceptedService::new(service, RequireToken::new(token));
    let server = listen::server()
        .add_service(service)
        .serve_with_incoming_shutdown(
            listen::incoming(listener),
            shutdown.clone().cancelled_owned(),
        );
    // When the driver goes, waiting calls and open streams end, so that the
    // server can stop too.
    let drive = async {
        let outcome = tokio::select! {
            outcome = driver.run() => outcome,
            () = shutdown.cancelled() => Ok(()),
        };
        shutdown.cancel();
        outcome
    };
    let (driven, served) = tokio::join!(drive, server);
    driven?;
    served.context("the gRPC server failed; restart the coordinator")?;
    if let Some(health) = health {
        health.stopped().await?;
    }
    Ok(())
}

async fn read_run(store: &Store) -> Result<RunDocument> {
    match RunDocument::read(store).await {
        Err(ArtifactError::NotFound { .. }) => bail!(
            "the store {} holds no run: there is no run.json; begin it with `quarry run`, or set it up with `quarry prepare --recipe RECIPE`",
            store.url()
        ),
        outcome => Ok(outcome?),
    }
}

/// Unique to this process, so that a log record tells who wrote it.
fn writer_id() -> String {
    let pid = std::process::id();
    // Seeded by the operating system; differs at each start.
    format!("{pid}-{:016x}", RandomState::new().hash_one(pid))
}
