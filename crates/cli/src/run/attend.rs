//! A running fleet: from the first process to the last look.
//!
//! Owns: when a run counts as done, interrupted, failed or hopeless, and what its
//! user sees meanwhile. Refuses: how processes are started and stopped (`fleet`).

use crate::commands::connect;
use crate::resources;
use crate::run::fleet::{Fleet, Threads};
use crate::run::program::Place;
use crate::run::progress::Progress;
use anyhow::{Result, bail};
use quarry_proto::v1::{
    GetRunRequest, GetRunResponse, ListGenerationsRequest, ListGenerationsResponse,
};
use quarry_recipe::Recipe;
use quarry_service::CancellationToken;
use quarry_service::channel::ServiceChannel;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Coordinator client of the command line.
type Client = quarry_proto::v1::coordinator_client::CoordinatorClient<ServiceChannel>;

/// Time between two looks at the run.
const GLANCE: Duration = Duration::from_millis(500);

/// Time the coordinator has for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time after which a run without a first generation, and none in the making, is
/// given up.
const HOPELESS: Duration = Duration::from_secs(15);

/// The same for a trainer that waits for fresher negatives.
const HOPELESS_BLOCKED: Duration = Duration::from_secs(60);

/// Exit code of a trainer whose failure `--resume` would only repeat.
const LASTING: i32 = 5;

/// How the processes ended.
pub enum Exit {
    /// Every step was taken.
    Done,
    /// Somebody asked them to stop; `--resume` goes on.
    Interrupted,
    /// Why they cannot go on.
    Failed(String),
    /// Why they cannot go on, and what to do: `--resume` would end alike.
    Final(String),
}

/// Starts the fleet, shows progress until the trainer ends, stops the fleet.
///
/// # Errors
/// If a program does not come up, keeps dying, or cannot publish its work.
pub async fn conduct(
    recipe: &Recipe,
    place: Place,
    listen: Option<&str>,
    resume: bool,
) -> Result<(Exit, ListGenerationsResponse)> {
    let cores = resources::cores();
    let threads = Threads {
        trainer: recipe.trainer_threads(cores),
        worker: recipe.fleet.threads_of_worker(cores),
    };
    let workers = recipe.fleet.workers;
    // Before any process exists: from here on Ctrl-C stops them in order.
    let interrupted = quarry_service::signals::shutdown()?;
    let mut fleet = Fleet::start(place, listen, workers, threads, resume).await?;
    let url = format!("http://{}", fleet.address());
    eprintln!(
        "coordinator on {url}; {workers} inferencer(s); follow it with: quarry status --coordinator {url} --watch"
    );
    let outcome = attend(&mut fleet, &url, &interrupted).await;
    let last = match &outcome {
        Ok(Exit::Done) => tokio::time::timeout(PATIENCE, last_look(&url)).await,
        _ => Ok(Ok((false, ListGenerationsResponse::default()))),
    };
    let stopped = fleet.stop().await;
    let exit = outcome?;
    if let Exit::Failed(_) | Exit::Final(_) = exit {
        return Ok((exit, ListGenerationsResponse::default()));
    }
    stopped?;
    match (exit, last) {
        (Exit::Done, Ok(Ok((true, generations)))) => Ok((Exit::Done, generations)),
        // A trainer that was asked to stop, by whomever, ends well without being done.
        (Exit::Done, Ok(Ok((false, _)))) => {
            Ok((Exit::Interrupted, ListGenerationsResponse::default()))
        }
        (Exit::Done, Ok(Err(error))) => Err(error),
        (Exit::Done, Err(_)) => bail!(
            "the coordinator did not answer within {} s at the end",
            PATIENCE.as_secs()
        ),
        (exit, _) => Ok((exit, ListGenerationsResponse::default())),
    }
}

/// Whether the run is finished, and its generations.
async fn last_look(url: &str) -> Result<(bool, ListGenerationsResponse)> {
    let mut client = connect(url, None).await?;
    let run = client
        .get_run(GetRunRequest {})
        .await
        .map_err(unanswered)?
        .into_inner();
    let generations = client
        .list_generations(ListGenerationsRequest {})
        .await
        .map_err(unanswered)?;
    Ok((run.finished, generations.into_inner()))
}

fn unanswered(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the coordinator did not answer: {}", status.message())
}

/// Watches until the trainer ends, somebody interrupts, or the fleet fails.
async fn attend(fleet: &mut Fleet, url: &str, interrupted: &CancellationToken) -> Result<Exit> {
    let mut progress = Progress::new();
    let mut client: Option<Client> = None;
    let mut stuck = Stuck::default();
    loop {
        let look = async {
            tokio::time::sleep(GLANCE).await;
            tokio::time::timeout(PATIENCE, glance(&mut client, url)).await
        };
        let seen = tokio::select! {
            () = interrupted.cancelled() => {
                progress.end();
                eprintln!("stopping: the trainer writes a checkpoint first; press Ctrl-C again to stop at once");
                return Ok(Exit::Interrupted);
            }
            seen = look => seen,
        };
        if let Some(status) = fleet.tend()? {
            progress.end();
            return Ok(exit_of(status, fleet));
        }
        match seen {
            Ok(Some(run)) => {
                progress.show(&run);
                if let Some(reason) = stuck.judge(&run) {
                    progress.end();
                    return Ok(Exit::Failed(reason));
                }
            }
            Ok(None) => {} // starting or restarting; `tend` sees to it
            Err(_) => progress.say(&format!(
                "the coordinator does not answer: {}",
                fleet.coordinator_words()
            )),
        }
    }
}

/// The run as the coordinator sees it; `None` while it cannot be reached.
async fn glance(client: &mut Option<Client>, url: &str) -> Option<GetRunResponse> {
    if client.is_none() {
        *client = connect(url, None).await.ok();
    }
    let answer = client.as_mut()?.get_run(GetRunRequest {}).await;
    if answer.is_err() {
        *client = None;
    }
    answer.ok().map(tonic::Response::into_inner)
}

/// Notices a run that cannot go on: the trainer waits for negatives, none are in
/// the making, and the coordinator says what is wrong.
#[derive(Default)]
struct Stuck {
    since: Option<Instant>,
}

impl Stuck {
    fn judge(&mut self, run: &GetRunResponse) -> Option<String> {
        let blocked = run.trainer.as_ref().is_some_and(|trainer| trainer.blocked);
        let waits = run.active.is_none() || blocked;
        if !waits || run.open.is_some() || run.trouble.is_empty() {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        // A blocked trainer first uploads a checkpoint for the next attempt.
        let limit = if blocked { HOPELESS_BLOCKED } else { HOPELESS };
        (since.elapsed() > limit).then(|| format!("no negatives can be made: {}", run.trouble))
    }
}

fn exit_of(status: ExitStatus, fleet: &Fleet) -> Exit {
    if status.success() {
        return Exit::Done;
    }
    match status.code() {
        Some(code) => {
            let reason = format!("the trainer stopped: {}", fleet.last_words());
            match code {
                LASTING => Exit::Final(reason),
                _ => Exit::Failed(reason),
            }
        }
        None => Exit::Failed(format!("the trainer was killed ({status})")),
    }
}
