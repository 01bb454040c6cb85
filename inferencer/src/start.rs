//! From the command line to a working worker: store, run document, cache,
//! engine, health.

use crate::args::Args;
use crate::depot::Depot;
use crate::engine::Engine;
use crate::worker::{Ended, Worker, WorkerError};
use crate::workshop::Workshop;
use anyhow::Context;
use quarry_artifacts::{RunDocument, Store};
use quarry_client::worker::Link;
use quarry_recipe::Recipe;
use quarry_service::args::cache_folder;
use quarry_service::health::Health;
use quarry_service::patience::is_absence;
use quarry_service::{CancellationToken, Token, threads};
use std::time::Duration;
use tch::Device;
use tokio::runtime::Handle;
use tonic::Status;

/// Pause between two looks for a run that is not there yet.
const RUN_POLL: Duration = Duration::from_secs(1);
/// Looks between two words about it.
const LOOKS_A_WORD: u32 = 60;

/// Runs a worker until the run is finished or `shutdown` is cancelled.
///
/// # Errors
/// One sentence: what cannot be used, where, and what to do.
pub async fn run(
    args: &Args,
    device: Device,
    shutdown: CancellationToken,
) -> anyhow::Result<Ended> {
    let token = args.token_file.as_deref().map(Token::read).transpose()?;
    let health = match args.health_listen {
        Some(addr) => Some(Health::serve(addr, shutdown.clone()).await?),
        None => None,
    };
    let name = args.name.clone().unwrap_or_else(unique_name);
    let link = Link::new(&args.coordinator, token.as_ref(), name.clone())?;
    let store = Store::open_existing(&args.store).await?;
    let Some(document) = find_run(&store, &shutdown).await? else {
        return Ok(Ended::Stopped);
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(Ended::Stopped),
        greeted = link.greet(Duration::from_secs(args.patience)) => {
            greeted.map_err(|status| unmet(args, &status))?;
        }
    }
    let threads = args.threads.map_or_else(threads::available, usize::from);
    let engine = engine(args, document, store, device, threads)?;
    tracing::info!(
        name,
        ?device,
        threads,
        coordinator = args.coordinator,
        "worker ready"
    );
    if let Some(health) = &health {
        health.set_serving(true).await;
    }
    let worker = Worker::new(link, engine, args.once);
    let ended = worker.run(&shutdown).await.map_err(|error| match error {
        WorkerError::Refused(status) => unmet(args, &status),
        lost @ WorkerError::DeviceLost(_) => lost.into(),
    });
    if let Some(health) = health {
        health.set_serving(false).await;
    }
    ended
}

/// Why there is no working with the coordinator: it has never answered, or refuses.
fn unmet(args: &Args, status: &Status) -> anyhow::Error {
    let (at, reason) = (&args.coordinator, status.message());
    match is_absence(status) {
        true => anyhow::anyhow!(
            "no coordinator was found at {at}: {reason}; check --coordinator and that it runs, or give it longer with --patience"
        ),
        false => anyhow::anyhow!(
            "the coordinator at {at} refused this worker: {reason}; check --token-file and the versions of both"
        ),
    }
}

fn engine(
    args: &Args,
    document: RunDocument,
    store: Store,
    device: Device,
    threads: usize,
) -> anyhow::Result<Engine> {
    let cache = cache_folder(args.cache.as_deref());
    let recipe: Recipe = serde_json::from_value(document.recipe.clone())
        .context("the recipe in run.json cannot be read by this version")?;
    let bytes = (recipe.fleet.cache_gib.max(0.0) * f64::from(1 << 30)) as u64;
    let depot = Depot::new(Handle::current(), store, &cache, bytes)?;
    let shop = Workshop::new(document, depot, device, threads)?;
    Engine::start(threads, shop).context("no thread to compute on")
}

/// The run in the store; waits for one, because a fleet may start before its
/// run. `None` once `shutdown` is cancelled.
async fn find_run(
    store: &Store,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<RunDocument>> {
    let mut looks = 0;
    loop {
        let error = match RunDocument::read(store).await {
            Ok(run) => return Ok(Some(run)),
            Err(error) => error,
        };
        let say = looks % LOOKS_A_WORD == 0;
        match error {
            error if error.is_not_found() && say => {
                tracing::warn!(%error, "no run in the store yet; waiting for one");
            }
            error if error.is_retryable() && say => {
                tracing::warn!(%error, "cannot look for a run in the store; trying again");
            }
            error if error.is_not_found() || error.is_retryable() => {}
            error => return Err(error.into()),
        }
        looks += 1;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(RUN_POLL) => {}
        }
    }
}

/// Host name, process id and a part that differs between restarts with the same id.
fn unique_name() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "worker",
        name => name,
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let restart = now.map_or(0, |since| since.subsec_nanos() & 0xffff);
    format!("{host}-{}-{restart:04x}", std::process::id())
}
