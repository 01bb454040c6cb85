//! The durable changes: what the log holds, and nothing else.
//!
//! A change says what happened, never why; replaying all changes in order gives
//! the durable state back. Fields may be added with a default, never renamed:
//! logs outlive versions.

use quarry_artifacts::{CheckpointRef, Digest, GenerationKind, ObjectRef};
use quarry_proto::TaskOutput;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One durable change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A coordinator took over (law 6).
    EpochStarted {
        /// Its fencing number.
        epoch: u64,
        /// Where it can be reached, if it knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    },
    /// A checkpoint is known.
    CheckpointPublished {
        /// Which.
        checkpoint: CheckpointRef,
        /// Whether training ends with it.
        is_final: bool,
    },
    /// A generation is being made.
    GenerationOpened {
        /// Its number, never used before.
        generation: u64,
        /// How its negatives are mined.
        kind: GenerationKind,
        /// The one checkpoint it stems from (law 2).
        checkpoint: CheckpointRef,
        /// Number of its tasks.
        tasks: u32,
    },
    /// A task has its output; the first completion wins.
    TaskCompleted {
        /// Of this generation.
        generation: u64,
        /// The task.
        task: u32,
        /// What it made.
        output: TaskOutput,
        /// Time since the generation was opened.
        elapsed_ms: u64,
    },
    /// An output turned out to be missing; the task is to be done again.
    TaskReopened {
        /// Of this generation.
        generation: u64,
        /// The task.
        task: u32,
        /// What is missing.
        reason: String,
    },
    /// A complete generation became active.
    GenerationPublished {
        /// Which.
        generation: u64,
        /// Number of this activation.
        activation: u64,
        /// Its manifest.
        manifest: ObjectRef,
        /// Dev metrics.
        metrics: BTreeMap<String, f64>,
        /// What mining dropped or lacked.
        counts: BTreeMap<String, u64>,
        /// From opening to publication.
        seconds: f64,
    },
    /// An open generation was given up.
    GenerationAborted {
        /// Which.
        generation: u64,
        /// Why.
        reason: String,
    },
    /// An earlier generation became active again (law 3).
    RolledBack {
        /// Number of this activation.
        activation: u64,
        /// Which.
        generation: u64,
    },
    /// A generation's bulk may be deleted.
    GenerationRetired {
        /// Which.
        generation: u64,
    },
    /// A generation's bulk is deleted.
    GenerationCollected {
        /// Which.
        generation: u64,
    },
    /// A checkpoint may be deleted.
    CheckpointRetired {
        /// Which.
        checkpoint: CheckpointRef,
    },
    /// A checkpoint is deleted.
    CheckpointCollected {
        /// Which.
        checkpoint: CheckpointRef,
    },
    /// One line of the run's version log (law 4).
    TrainerSwapped {
        /// First step that uses the generation.
        step: u64,
        /// Activation the trainer followed.
        activation: u64,
        /// The generation.
        generation: u64,
        /// Digest of that generation's checkpoint.
        checkpoint: Digest,
        /// The trainer's process, if it said which.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<u64>,
    },
    /// The opening of generations was stopped or resumed.
    RefreshPaused {
        /// Stopped.
        paused: bool,
    },
}
