//! The one task that owns state and log: it turns requests into events, makes
//! the changes durable, and only then answers and acts.
//!
//! Owns the clock. Requests that arrive together are committed together. It may
//! be dropped at any moment: what was answered is in the log.

use crate::effects;
use crate::follower::Taken;
use crate::handle::{Handle, Inspection, Reply, Request, WorkAnswer};
use crate::log::{Log, LogError};
use crate::narrate::Narrator;
use crate::snapshots::Snapshots;
use crate::state::{
    Announcement, Answer, Change, Effect, Event, LeaseKey, Rejected, SettingsError, State, TaskKey,
    Timestamp,
};
use quarry_artifacts::Store;
use quarry_proto::Lease;
use std::collections::BTreeMap;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Requests handled, and committed, together at most.
const BATCH: usize = 1024;
/// Time between two looks at the deadlines.
const TICK: Duration = Duration::from_millis(250);
/// Pause before a record that the store refused is written again.
const APPEND_RETRY: Duration = Duration::from_secs(1);
/// Time between two looks for a successor.
const LOOK_OUT: Duration = Duration::from_secs(5);
/// How long such a look may hold up the requests.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// Looks in vain, one after the other, after which the store counts as lost: about the
/// patience of a standby.
const LOOKS_IN_VAIN: u32 = 3;
/// How long a look may take when nothing else is done.
const SILENT_LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Why a coordinator cannot start or go on.
#[derive(Debug, Error)]
pub enum DriverError {
    /// The run's settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The log cannot be read or written, or another coordinator took over.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log tells of a state that breaks a law.
    #[error("the log cannot be resumed: {0}")]
    Broken(String),
}

/// The driver, ready to run.
pub struct Driver {
    state: State,
    log: Log,
    store: Store,
    started: Instant,
    requests: mpsc::Receiver<Request>,
    active: watch::Sender<Option<Announcement>>,
    parked: BTreeMap<u64, Parked>,
    tickets: u64,
    jobs: JoinSet<Event>,
    backlog: Vec<Request>,
    narrator: Narrator,
    snapshots: Snapshots,
    /// Looks for a successor that the store has not answered since it last did.
    vain_looks: u32,
    /// Milliseconds the store took since requests were last heard.
    stalled_ms: u64,
}

/// A request for work that is not answered yet.
struct Parked {
    worker: String,
    reply: oneshot::Sender<WorkAnswer>,
}

/// What a batch of requests leads to, once it is durable.
#[derive(Default)]
struct Turn {
    changes: Vec<Change>,
    answers: Vec<(Reply, Result<Answer, Rejected>)>,
    effects: Vec<Effect>,
    inspections: Vec<Inspection>,
}

impl Driver {
    /// The driver of a run that was just taken over, and the way to it. Must be
    /// called in a Tokio runtime.
    #[must_use]
    pub fn new(store: Store, taken: Taken) -> (Self, Handle) {
        let Taken {
            state,
            log,
            changes,
            effects,
        } = taken;
        let (sender, requests) = mpsc::channel(BATCH);
        let (active, receiver) = watch::channel(state.run.announcement());
        let mut driver = Self {
            state,
            snapshots: Snapshots::new(&log),
            log,
            store,
            started: Instant::now(),
            requests,
            active,
            parked: BTreeMap::new(),
            tickets: 0,
            jobs: JoinSet::new(),
            backlog: Vec::new(),
            narrator: Narrator::default(),
            vain_looks: 0,
            stalled_ms: 0,
        };
        driver.perform_all(&changes, effects);
        let handle = Handle {
            requests: sender,
            active: receiver,
        };
        (driver, handle)
    }

    /// Runs until every handle is gone. May be dropped at any await: what was
    /// answered is in the log, and with the driver every waiting call and every
    /// stream ends.
    ///
    /// # Errors
    /// [`DriverError::Log`] with [`LogError::Fenced`] once another coordinator
    /// took over (law 6).
    pub async fn run(mut self) -> Result<(), DriverError> {
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut lookout = tokio::time::interval(LOOK_OUT);
        lookout.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut batch = std::mem::take(&mut self.backlog);
            if batch.is_empty() {
                // In this order, or a flood of requests would hold up all the rest.
                tokio::select! {
                    biased;
                    _ = ticker.tick() => batch.extend(self.at_tick()),
                    _ = lookout.tick() => self.look_out().await?,
                    Some(done) = self.jobs.join_next() => match done {
                        Ok(event) => batch.push(Request::Event(event, None)),
                        Err(error) => tracing::error!(%error, "a background job died"),
                    },
                    request = self.requests.recv() => match request {
                        Some(request) => batch.push(request),
                        None => return Ok(()),
                    },
                }
            }
            self.tell_of_stall(&mut batch);
            while batch.len() < BATCH {
                match self.requests.try_recv() {
                    Ok(request) => batch.push(request),
                    Err(_) => break,
                }
            }
            self.turn(batch).await?;
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Time passed; and some who waited may have hung up.
    fn at_tick(&mut self) -> Vec<Request> {
        let hung_up =
            |(ticket, parked): (&u64, &Parked)| parked.reply.is_closed().then_some(*ticket);
        let abandoned: Vec<u64> = self.parked.iter().filter_map(hung_up).collect();
        let mut batch = Vec::new();
        for ticket in abandoned {
            self.parked.remove(&ticket);
            batch.push(Request::Event(Event::RequestAbandoned { ticket }, None));
        }
        batch.push(Request::Event(Event::Tick, None));
        batch
    }

    async fn turn(&mut self, batch: Vec<Request>) -> Result<(), DriverError> {
        let mut turn = Turn::default();
        for request in batch {
            self.handle(request, &mut turn);
        }
        let before = self.now();
        self.append(&turn.changes).await?;
        self.stalled_ms += self.now().since(before);
        for (reply, answer) in turn.answers {
            let _ = reply.send(answer); // the caller hung up: nothing to do
        }
        self.perform_all(&turn.changes, turn.effects);
        for look in turn.inspections {
            look(&self.state, self.now());
        }
        Ok(())
    }

    fn handle(&mut self, request: Request, turn: &mut Turn) {
        let (event, reply) = match request {
            Request::Event(event, reply) => (event, reply),
            Request::Work(worker, wait_ms, reply) => {
                self.tickets += 1;
                let ticket = self.tickets;
                let parked = Parked {
                    worker: worker.clone(),
                    reply,
                };
                self.parked.insert(ticket, parked);
                let event = Event::WorkRequested {
                    ticket,
                    worker,
                    wait_ms,
                };
                (event, None)
            }
            Request::Inspect(look) => return turn.inspections.push(look),
        };
        let answer = match self.state.apply(self.now(), event) {
            Ok(effects) => {
                let (changes, mut effects) = split(effects);
                turn.changes.extend(changes);
                let answer = effects.iter().find_map(|effect| match effect {
                    Effect::Answer(answer) => Some(*answer),
                    _ => None,
                });
                effects.retain(|effect| !matches!(effect, Effect::Answer(_)));
                turn.effects.extend(effects);
                Ok(answer.unwrap_or(Answer::Done))
            }
            Err(rejected) => Err(rejected),
        };
        match (reply, answer) {
            (Some(reply), answer) => turn.answers.push((reply, answer)),
            (None, Err(error)) => tracing::warn!(%error, "an event was rejected"),
            (None, Ok(_)) => {}
        }
    }

    /// Makes changes durable, however long the store is away: nothing may be
    /// answered before, and the state is already ahead.
    async fn append(&mut self, changes: &[Change]) -> Result<(), DriverError> {
        if changes.is_empty() {
            return Ok(());
        }
        loop {
            match self.log.append(self.state.run.epoch, changes).await {
                Ok(_) => {
                    self.vain_looks = 0;
                    break;
                }
                Err(LogError::Store(error)) => {
                    tracing::error!(%error, "cannot write the log, trying again");
                    tokio::time::sleep(APPEND_RETRY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.snapshots.keep_up(&self.log, &self.state.run);
        Ok(())
    }

    /// A zombie that has nothing to write would keep its callers for ever, so it looks
    /// whether it was fenced. Whom the store does not answer time and again cannot know,
    /// and is of no use to anybody: it says nothing either.
    async fn look_out(&mut self) -> Result<(), DriverError> {
        let before = self.now();
        if looks_unfenced(&self.log, LOOK_LIMIT).await? {
            self.vain_looks = 0;
        } else {
            self.vain_looks += 1;
            if self.vain_looks >= LOOKS_IN_VAIN {
                self.be_silent().await?;
            }
        }
        self.stalled_ms += self.now().since(before);
        Ok(())
    }

    /// Leaves every request unanswered until the store is back, as while the log cannot
    /// be written: a standby that has the store takes over, and callers go there.
    async fn be_silent(&mut self) -> Result<(), DriverError> {
        let before = self.now();
        tracing::error!("cannot reach the store, silent until it is back");
        while !looks_unfenced(&self.log, SILENT_LOOK_LIMIT).await? {
            tokio::time::sleep(APPEND_RETRY).await;
        }
        let ms = self.now().since(before);
        tracing::info!(ms, "the store is back");
        self.vain_looks = 0;
        Ok(())
    }

    /// Requests, heartbeats among them, queue up while the store stalls: the state hears
    /// of the stall before them, or their leases would lapse. A lease may be half over
    /// when its heartbeat comes, and a stall that is not told of costs a quarter.
    fn tell_of_stall(&mut self, batch: &mut Vec<Request>) {
        let ms = std::mem::take(&mut self.stalled_ms);
        if ms > self.state.settings.lease_ms() / 4 {
            tracing::warn!(ms, "the store held up all requests");
            batch.insert(0, Request::Event(Event::Stalled { ms }, None));
        }
    }

    fn perform_all(&mut self, changes: &[Change], effects: Vec<Effect>) {
        for change in changes {
            self.narrator.tell(&self.state, change);
        }
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        let store = self.store.clone();
        match effect {
            Effect::Grant { ticket, lease } => self.grant(ticket, lease),
            Effect::NoWork { ticket, finished } => {
                let lease = None;
                self.answer_work(ticket, WorkAnswer { lease, finished });
            }
            Effect::Announce(announcement) => {
                self.active.send_replace(Some(announcement));
            }
            Effect::Publish { manifest, objects } => {
                let generation = manifest.generation;
                let job = effects::publish(store, manifest, objects);
                self.jobs.spawn(effects::or_failed(generation, job));
            }
            Effect::CollectGeneration { generation, keep } => {
                self.jobs
                    .spawn(effects::collect_generation(store, generation, keep));
            }
            Effect::CollectCheckpoint { checkpoint } => {
                self.jobs
                    .spawn(effects::collect_checkpoint(store, checkpoint));
            }
            Effect::WorkerJoined { worker } => tracing::info!(worker, "worker joined"),
            Effect::WorkerVanished { worker } => tracing::info!(worker, "worker vanished"),
            Effect::Append(_) | Effect::Answer(_) => {} // taken out before
        }
    }

    /// Hands out a lease; takes it back at once if the worker hung up meanwhile.
    fn grant(&mut self, ticket: u64, lease: Lease) {
        let key = LeaseKey {
            epoch: lease.epoch,
            id: lease.id,
        };
        let task = TaskKey {
            generation: lease.task.generation,
            number: lease.task.number,
        };
        let answer = WorkAnswer {
            lease: Some(lease),
            finished: false,
        };
        let Some(worker) = self.answer_work(ticket, answer) else {
            return;
        };
        tracing::debug!(
            worker,
            generation = task.generation,
            task = task.number,
            "worker hung up"
        );
        let event = Event::LeaseReturned {
            worker,
            lease: key,
            reason: "the worker hung up".to_owned(),
            failed: false,
        };
        self.backlog.push(Request::Event(event, None));
    }

    /// Answers a parked request; the worker's name comes back if it hung up.
    fn answer_work(&mut self, ticket: u64, answer: WorkAnswer) -> Option<String> {
        let parked = self.parked.remove(&ticket)?;
        parked.reply.send(answer).is_err().then_some(parked.worker)
    }
}

/// Whether nobody took over; false if the store does not say within `limit`.
async fn looks_unfenced(log: &Log, limit: Duration) -> Result<bool, DriverError> {
    match tokio::time::timeout(limit, log.check_unfenced()).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(LogError::Store(_))) | Err(_) => Ok(false),
        Ok(Err(fenced)) => Err(fenced.into()),
    }
}

/// Takes the changes out of the effects.
pub(crate) fn split(effects: Vec<Effect>) -> (Vec<Change>, Vec<Effect>) {
    let mut changes = Vec::new();
    let mut rest = Vec::new();
    for effect in effects {
        match effect {
            Effect::Append(change) => changes.push(change),
            other => rest.push(other),
        }
    }
    (changes, rest)
}
