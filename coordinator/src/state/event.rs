//! What can happen to the coordinator, and what it wants done about it.

use super::change::Change;
use quarry_artifacts::{CheckpointRef, Digest, GenerationManifest, ObjectRef};
use quarry_proto::{Lease, TaskOutput};
use thiserror::Error;

/// Milliseconds since an origin of the caller's choice; it never runs backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment `ms` milliseconds later.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`, 0 if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A lease as its holder names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey {
    /// Epoch of the coordinator that granted it.
    pub epoch: u64,
    /// Number inside the epoch.
    pub id: u64,
}

/// A task as its holder names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskKey {
    /// Generation.
    pub generation: u64,
    /// Number inside the generation.
    pub number: u32,
}

/// A generation that the trainer cannot train on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Activation that made it known.
    pub activation: u64,
    /// The generation.
    pub generation: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Where the trainer says it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainerReport {
    /// Steps taken.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Mean training loss of late.
    pub loss: f64,
    /// Training pairs per second of late.
    pub pairs_per_second: f64,
    /// Generation in use.
    pub generation: u64,
    /// Whether it waits for a fresher generation (law 5).
    pub blocked: bool,
    /// The newest generation it looked at, if that cannot be used (law 8).
    pub refusal: Option<Refusal>,
    /// Why its latest checkpoint could not be published; empty if it could.
    pub unpublished: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// This process became the writer of the log.
    TakenOver {
        /// Its fencing number.
        epoch: u64,
        /// Where it can be reached, if it knows.
        address: Option<String>,
        /// The model training starts from, of `run.json`.
        initial: CheckpointRef,
    },
    /// A complete checkpoint is in the store.
    CheckpointPublished {
        /// Which.
        checkpoint: CheckpointRef,
        /// Whether training ends with it.
        is_final: bool,
    },
    /// A worker asks for work and is willing to wait; with 0 ms it is answered at once.
    WorkRequested {
        /// Names the request in the answer.
        ticket: u64,
        /// The worker.
        worker: String,
        /// For how long, in milliseconds.
        wait_ms: u64,
    },
    /// The worker no longer listens for the answer.
    RequestAbandoned {
        /// The request.
        ticket: u64,
    },
    /// A worker is alive and at work.
    Heartbeat {
        /// The worker.
        worker: String,
        /// Its lease.
        lease: LeaseKey,
        /// The leased task, if the worker named it.
        task: Option<TaskKey>,
        /// Share done, 0 to 1.
        progress: f64,
    },
    /// A worker finished a task.
    TaskCompleted {
        /// The worker.
        worker: String,
        /// Its lease.
        lease: LeaseKey,
        /// The task.
        task: TaskKey,
        /// What it made.
        output: TaskOutput,
    },
    /// A worker gives a lease back undone.
    LeaseReturned {
        /// The worker.
        worker: String,
        /// Its lease.
        lease: LeaseKey,
        /// Why.
        reason: String,
        /// Whether the task itself failed, as against a shutdown.
        failed: bool,
    },
    /// The trainer switched to a generation.
    TrainerSwapped {
        /// First step that uses it.
        step: u64,
        /// Activation it followed.
        activation: u64,
        /// The generation.
        generation: u64,
        /// Digest of that generation's checkpoint.
        checkpoint: Digest,
        /// The trainer's process, if it said which.
        session: Option<u64>,
    },
    /// The trainer says where it is.
    TrainerProgressed(TrainerReport),
    /// Every object was there and the manifest is written.
    ManifestWritten {
        /// Of this generation.
        generation: u64,
        /// The manifest.
        manifest: ObjectRef,
    },
    /// Objects of finished tasks are absent or short.
    ObjectsMissing {
        /// Of this generation.
        generation: u64,
        /// Their paths.
        paths: Vec<String>,
    },
    /// The store did not let the manifest be written.
    PublicationFailed {
        /// Of this generation.
        generation: u64,
        /// The store's words.
        reason: String,
    },
    /// A retired generation's bulk is deleted.
    GenerationCollected {
        /// Which.
        generation: u64,
    },
    /// A retired checkpoint is deleted.
    CheckpointCollected {
        /// Which.
        checkpoint: CheckpointRef,
    },
    /// Someone wants an earlier generation back.
    RollbackRequested {
        /// Which.
        generation: u64,
    },
    /// Someone stops or resumes the opening of generations.
    PauseRequested {
        /// Stop.
        paused: bool,
    },
    /// The coordinator could not listen, because it waited for the store.
    Stalled {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// Time passed.
    Tick,
}

/// One activation of a generation, as the trainer hears of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Rises by one with each publication or rollback (law 3).
    pub activation: u64,
    /// The generation made active.
    pub generation: u64,
    /// The checkpoint it stems from.
    pub checkpoint: CheckpointRef,
    /// Its manifest.
    pub manifest: ObjectRef,
}

/// The reply to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// To a completion: whether this output is the one that counts.
    Completed {
        /// See above.
        accepted: bool,
    },
    /// To a heartbeat: whether to drop the work.
    Beat {
        /// See above.
        cancelled: bool,
    },
    /// To a rollback: the activation that is now current.
    Activated {
        /// See above.
        activation: u64,
    },
}

/// What is to be done. All but `Append` waits until the changes appended before
/// it are durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make this change durable.
    Append(Change),
    /// Answer the request that caused the event.
    Answer(Answer),
    /// Answer a request for work.
    Grant {
        /// The request.
        ticket: u64,
        /// The work.
        lease: Lease,
    },
    /// Answer a request for work: there is none.
    NoWork {
        /// The request.
        ticket: u64,
        /// Nor will there be.
        finished: bool,
    },
    /// Check that every object is there in full, then write the manifest.
    Publish {
        /// The manifest.
        manifest: Box<GenerationManifest>,
        /// Every output of every task.
        objects: Vec<ObjectRef>,
    },
    /// Tell the trainer.
    Announce(Announcement),
    /// Delete everything of a generation but `keep`.
    CollectGeneration {
        /// Which.
        generation: u64,
        /// Paths that stay: manifest, runs, metrics.
        keep: Vec<String>,
    },
    /// Delete a checkpoint, its manifest first.
    CollectCheckpoint {
        /// Which.
        checkpoint: CheckpointRef,
    },
    /// For the log of the process: a worker came.
    WorkerJoined {
        /// Which.
        worker: String,
    },
    /// For the log of the process: a worker has not been heard of for a lease.
    WorkerVanished {
        /// Which.
        worker: String,
    },
}

/// Why an event was refused; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejected {
    /// The request makes no sense, now or later.
    #[error("{0}")]
    Invalid(String),
    /// The request names something that does not exist.
    #[error("{0}")]
    Unknown(String),
    /// The request cannot be granted in the present state.
    #[error("{0}")]
    Precondition(String),
}
