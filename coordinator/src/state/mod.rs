//! The coordinator's decisions: a pure state machine without clock, randomness
//! or I/O (law 7).
//!
//! [`State::apply`] takes an event and the time, and says what is to be done.
//! Inside it is event-sourced: every durable decision is a [`Change`] that goes
//! to the log and evolves the [`Run`]; a replay of the log gives the same `Run`
//! back. What a restart may forget (leases, waiting workers, the trainer's last
//! report) lives outside of it.

mod blame;
mod change;
mod durations;
mod event;
mod generation;
mod held;
mod invariants;
mod lease;
mod plan;
mod publication;
mod refresh;
mod retention;
mod run;
mod script;
mod settings;
mod straggler;
mod trainer;
mod trouble;

pub use blame::{Failure, MOST_ATTEMPTS, MOST_FAILURES};
pub use change::Change;
pub use event::{
    Announcement, Answer, Effect, Event, LeaseKey, Refusal, Rejected, TaskKey, Timestamp,
    TrainerReport,
};
pub use generation::Board;
pub use held::{Held, Leases};
pub use invariants::check;
pub use lease::{Fleet, Waiter};
pub use plan::{Plan, Planned, blocks, partitions};
pub use publication::Publishing;
pub use refresh::Due;
pub use run::{
    AbortedGeneration, Checkpoint, Life, OpenGeneration, PublishedGeneration, Run, SwapRecord,
};
pub use settings::{CorpusShape, QueriesShape, Settings, SettingsError, ShardShape};

use std::collections::BTreeSet;

/// Everything the coordinator knows.
#[derive(Debug, Clone)]
pub struct State {
    /// Fixed facts of the run.
    pub settings: Settings,
    /// The durable part.
    pub run: Run,
    /// Tasks of the open generation.
    pub board: Option<Board>,
    /// Leases and workers.
    pub fleet: Fleet,
    /// The trainer's last report and when it came.
    pub trainer: Option<(Timestamp, TrainerReport)>,
    /// How far the publication of the open generation is.
    pub publishing: Publishing,
    /// Deletions asked for: a generation, or a checkpoint's step and digest.
    collecting: BTreeSet<(u64, Option<String>)>,
    /// When the open generation was opened, or this process took it over.
    opened: Timestamp,
    /// For how long it had been open under earlier processes.
    elapsed_before: u64,
    /// Whether something happened that what is to be kept depends on.
    retention_due: bool,
}

impl State {
    /// The state of a run of which nothing has been recorded yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            run: Run::default(),
            board: None,
            fleet: Fleet::default(),
            trainer: None,
            publishing: Publishing::Idle,
            collecting: BTreeSet::new(),
            opened: Timestamp::default(),
            elapsed_before: 0,
            retention_due: true,
        }
    }

    /// The state after a log. Law 3 and 6 rest on it: the same changes give the
    /// same durable state, whoever replays them.
    ///
    /// # Errors
    /// One sentence, if no coordinator with these settings can have written the log.
    pub fn replay<'a>(
        settings: Settings,
        changes: impl IntoIterator<Item = &'a Change>,
        now: Timestamp,
    ) -> Result<Self, String> {
        let mut run = Run::default();
        for change in changes {
            run.evolve(change);
        }
        Self::resume(settings, run, now)
    }

    /// The state of a coordinator that takes over a run.
    ///
    /// # Errors
    /// One sentence, if the run does not fit the settings.
    pub fn resume(settings: Settings, run: Run, now: Timestamp) -> Result<Self, String> {
        let mut state = Self::new(settings);
        state.opened = now;
        state.fleet.last_contact = now;
        if let Some(open) = &run.open {
            let plan = Plan::new(&state.settings, open.kind);
            if plan.len() != open.tasks {
                return Err(format!(
                    "generation {} was planned with {} tasks, this version plans {}; finish the run with the version that began it",
                    open.generation,
                    open.tasks,
                    plan.len()
                ));
            }
            state.elapsed_before = open.elapsed_ms;
            state.board = Some(Board::new(plan, open));
        }
        state.run = run;
        invariants::check(&state)?;
        Ok(state)
    }

    /// Decides what an event means. Effects come in order; see [`Effect`].
    ///
    /// # Errors
    /// [`Rejected`] if the event makes no sense; then nothing changed.
    pub fn apply(&mut self, now: Timestamp, event: Event) -> Result<Vec<Effect>, Rejected> {
        let mut effects = Vec::new();
        if let Event::WorkRequested { worker, .. }
        | Event::Heartbeat { worker, .. }
        | Event::TaskCompleted { worker, .. }
        | Event::LeaseReturned { worker, .. } = &event
        {
            self.see(now, worker, &mut effects);
        }
        let answer = self.decide(now, event, &mut effects)?;
        effects.extend(answer.map(Effect::Answer));
        self.settle(now, &mut effects);
        Ok(effects)
    }

    fn decide(
        &mut self,
        now: Timestamp,
        event: Event,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<Answer>, Rejected> {
        match event {
            Event::TakenOver {
                epoch,
                address,
                initial,
            } => {
                self.record(Change::EpochStarted { epoch, address }, effects);
                if self.run.checkpoints.is_empty() {
                    self.checkpoint_published(initial, false, effects)?;
                }
            }
            Event::CheckpointPublished {
                checkpoint,
                is_final,
            } => {
                return self
                    .checkpoint_published(checkpoint, is_final, effects)
                    .map(Some);
            }
            Event::WorkRequested {
                ticket,
                worker,
                wait_ms,
            } => self.request_work(now, ticket, worker, wait_ms),
            Event::RequestAbandoned { ticket } => self.abandon(now, ticket),
            Event::Heartbeat { .. } => return Ok(Some(self.heartbeat(now, event))),
            Event::TaskCompleted {
                lease,
                task,
                output,
                ..
            } => {
                return self
                    .complete_task(now, lease, task, output, effects)
                    .map(Some);
            }
            Event::LeaseReturned { .. } => return self.return_lease(now, event, effects).map(Some),
            Event::TrainerSwapped { .. } => return self.trainer_swapped(event, effects).map(Some),
            Event::TrainerProgressed(report) => {
                self.trainer = Some((now, report));
                return Ok(Some(Answer::Done));
            }
            Event::ManifestWritten { .. } => self.manifest_written(now, event, effects),
            Event::ObjectsMissing { generation, paths } => {
                self.objects_missing(generation, &paths, effects);
            }
            Event::PublicationFailed { generation, reason } => {
                self.publication_failed(now, generation, reason);
            }
            Event::GenerationCollected { generation } => {
                self.record(Change::GenerationCollected { generation }, effects);
            }
            Event::CheckpointCollected { checkpoint } => {
                self.record(Change::CheckpointCollected { checkpoint }, effects);
            }
            Event::RollbackRequested { generation } => {
                return self.roll_back(generation, effects).map(Some);
            }
            Event::PauseRequested { paused } => {
                if paused != self.run.paused {
                    self.record(Change::RefreshPaused { paused }, effects);
                }
                return Ok(Some(Answer::Done));
            }
            Event::Stalled { ms } => self.forgive(ms),
            Event::Tick => {}
        }
        Ok(None)
    }

    /// What follows from the state alone, whatever event led to it. Doing it
    /// twice changes nothing.
    fn settle(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.expire(now, effects);
        self.open_due(now, effects);
        self.publish_complete(now, effects);
        self.retire(effects);
        self.grant(now, effects);
    }

    /// The one way to a durable change: into the log and into the run.
    fn record(&mut self, change: Change, effects: &mut Vec<Effect>) {
        self.run.evolve(&change);
        if let Change::GenerationOpened { .. } = change {
            self.elapsed_before = 0;
        }
        let task = matches!(
            change,
            Change::TaskCompleted { .. } | Change::TaskReopened { .. }
        );
        self.retention_due |= !task;
        effects.push(Effect::Append(change));
    }

    /// Where the trainer last said it is.
    pub(crate) fn report(&self) -> Option<&TrainerReport> {
        self.trainer.as_ref().map(|(_, report)| report)
    }

    /// Steps between the trainer and the checkpoint of the active generation.
    #[must_use]
    pub fn staleness(&self) -> u64 {
        let at = self.report().map_or(0, |report| report.step);
        let from = self.run.active().map_or(at, |(_, g)| g.checkpoint.step);
        at.saturating_sub(from)
    }
}
