//! The process: opens the store, leads the run or stands by, and serves until told
//! to stop.

use crate::driver::{Driver, DriverError};
use crate::follower::{Follower, Taken};
use crate::grpc::Service;
use crate::log::LogError;
use crate::options::Options;
use crate::role::Role;
use crate::standby::until_silent;
use anyhow::{Context, Result, bail};
use quarry_artifacts::{ArtifactError, RunDocument, Store};
use quarry_proto::MAX_MESSAGE_BYTES;
use quarry_proto::v1::coordinator_server::CoordinatorServer;
use quarry_service::auth::RequireToken;
use quarry_service::health::Health;
use quarry_service::{CancellationToken, ServiceError, Token, listen};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use tonic::service::interceptor::InterceptedService;

/// Exit code of a process that another coordinator fenced (law 6): restarting it
/// would only fence the other one.
pub const FENCED_EXIT: u8 = 3;
/// Exit code of a process whose port somebody else listens on: whoever started it
/// may try another.
pub const PORT_TAKEN_EXIT: u8 = 4;
/// Exit code of every other failure.
const FAILURE_EXIT: u8 = 1;
/// Pause before a take-over that the store did not answer is tried again.
const TAKE_OVER_RETRY: Duration = Duration::from_secs(1);

/// The exit code for a failure of [`serve`].
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        _ if is_fenced(error) => FENCED_EXIT,
        Some(ServiceError::PortInUse { .. }) => PORT_TAKEN_EXIT,
        _ => FAILURE_EXIT,
    }
}

fn is_fenced(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref();
    matches!(error, Some(DriverError::Log(LogError::Fenced { .. })))
}

/// Coordinates the run in the store, or stands by to do so, until `shutdown`.
///
/// # Errors
/// If the store holds no run or cannot guard the log, or another coordinator takes
/// over (law 6) from one that is not to stand by.
pub async fn serve(options: &Options, shutdown: CancellationToken) -> Result<()> {
    let args = &options.service;
    let token = args.token()?;
    let store = Store::open_existing(&options.store).await?;
    let run = read_run(&store).await?;
    store.probe_create_if_absent().await?;
    let health = match args.health_listen {
        Some(addr) => Some(Health::serve(addr, shutdown.clone()).await?),
        None => None,
    };
    // Bound before the run is taken over: who cannot listen must not fence anybody.
    let (listener, bound) = listen::bind(args.listen).await?;
    let turns = Turns {
        options,
        bound,
        address: options.address(bound)?,
        token: token.clone(),
        store: store.clone(),
        run,
        writer: writer_id(),
        role: watch::Sender::new(Role::Idle),
        health: health.as_ref(),
    };
    let service = CoordinatorServer::new(Service::new(turns.role.subscribe(), store))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let service = InterceptedService::new(service, RequireToken::new(token));
    let server = listen::server()
        .add_service(service)
        .serve_with_incoming_shutdown(
            listen::incoming(listener),
            shutdown.clone().cancelled_owned(),
        );
    // When the driver goes, waiting calls and open streams end, so that the server can
    // stop too.
    let act = async {
        let outcome = shutdown.run_until_cancelled(turns.take()).await;
        shutdown.cancel();
        outcome.unwrap_or(Ok(()))
    };
    let (acted, served) = tokio::join!(act, listen::until_drained(server, &shutdown));
    acted?;
    served.context("the gRPC server failed; restart the coordinator")?;
    if let Some(health) = health {
        health.stopped().await?;
    }
    Ok(())
}

/// A coordinator's turns at leading and standing by.
struct Turns<'a> {
    options: &'a Options,
    bound: SocketAddr,
    /// Where others find this process, if they can.
    address: Option<String>,
    token: Option<Token>,
    store: Store,
    run: RunDocument,
    writer: String,
    role: watch::Sender<Role>,
    health: Option<&'a Health>,
}

impl Turns<'_> {
    /// Leads, at once or after standing by; when fenced, stands by again if that is
    /// wanted.
    async fn take(&self) -> Result<()> {
        loop {
            let mut follower = Follower::open(self.store.clone(), &self.run, &self.writer).await?;
            let taken = if self.options.standby {
                self.stand_by(&mut follower).await?
            } else {
                follower.take_over(self.address.clone()).await?
            };
            match self.lead(taken).await {
                Err(error) if self.options.standby && is_fenced(&error) => {
                    tracing::warn!(%error, "fenced, standing by again");
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits for the leader to fall silent, and for being the one to follow it.
    async fn stand_by(&self, follower: &mut Follower) -> Result<Taken> {
        self.options.service.announce(self.bound)?;
        if self.led_here(follower)
            && let Some(taken) = self.try_take_over(follower).await?
        {
            return Ok(taken);
        }
        let (patience, token) = (self.options.takeover_after, self.token.as_ref());
        loop {
            until_silent(follower, patience, token, &self.role).await?;
            if let Some(taken) = self.try_take_over(follower).await? {
                return Ok(taken);
            }
            tracing::info!("another coordinator was quicker");
        }
    }

    /// Whether the latest leader listened where this process does, so that it must be
    /// gone: a leader that was started again goes on at once.
    fn led_here(&self, follower: &Follower) -> bool {
        let here = self
            .address
            .as_deref()
            .filter(|_| self.options.advertise.is_none());
        here.is_some() && follower.leader() == here
    }

    /// One attempt, however long the store is away: its record may have landed.
    async fn try_take_over(&self, follower: &Follower) -> Result<Option<Taken>> {
        loop {
            match follower.try_take_over(self.address.clone()).await {
                Err(DriverError::Log(LogError::Store(error))) => {
                    tracing::warn!(%error, "cannot write the log, trying again");
                    tokio::time::sleep(TAKE_OVER_RETRY).await;
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    async fn lead(&self, taken: Taken) -> Result<()> {
        let (driver, handle) = Driver::new(self.store.clone(), taken);
        self.role.send_replace(Role::Leading(handle));
        self.set_serving(true).await;
        self.options.service.announce(self.bound)?;
        let outcome = driver.run().await;
        self.role.send_replace(Role::Idle);
        self.set_serving(false).await;
        Ok(outcome?)
    }

    async fn set_serving(&self, serving: bool) {
        if let Some(health) = self.health {
            health.set_serving(serving).await;
        }
    }
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
