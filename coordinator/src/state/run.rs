//! The durable state of a run and how each change evolves it.
//!
//! `evolve` is total and mechanical: decisions are made before a change is
//! recorded, and a log that could not have been written is found by
//! [`super::invariants::check`] after the replay.

use super::change::Change;
use super::event::Announcement;
use quarry_artifacts::{CheckpointRef, Digest, GenerationKind, ObjectRef};
use quarry_proto::{Role, TaskOutput};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything a restart must know.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Run {
    /// Fencing number of the latest coordinator.
    pub epoch: u64,
    /// Where that coordinator can be reached, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Checkpoints, oldest publication first.
    pub checkpoints: Vec<Checkpoint>,
    /// The checkpoint training ended with.
    pub final_checkpoint: Option<CheckpointRef>,
    /// The generation being made.
    pub open: Option<OpenGeneration>,
    /// Every generation ever published.
    pub published: BTreeMap<u64, PublishedGeneration>,
    /// Generations given up.
    pub aborted: BTreeMap<u64, AbortedGeneration>,
    /// Generation of activation 1, 2, …
    pub activations: Vec<u64>,
    /// The version log: which generation from which step on, steps rising.
    pub swaps: Vec<SwapRecord>,
    /// Whether no generation may be opened.
    pub paused: bool,
    /// Number of the next generation.
    pub next_generation: u64,
}

/// A checkpoint and whether it is still in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which.
    pub reference: CheckpointRef,
    /// Its place in the life of an artifact.
    pub life: Life,
}

/// The life of an artifact in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// To be kept.
    Kept,
    /// To be deleted.
    Retired,
    /// Deleted.
    Collected,
}

/// A generation being made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenGeneration {
    /// Its number.
    pub generation: u64,
    /// How its negatives are mined.
    pub kind: GenerationKind,
    /// The one checkpoint it stems from (law 2).
    pub checkpoint: CheckpointRef,
    /// Number of its tasks.
    pub tasks: u32,
    /// Outputs of the tasks that are done.
    pub done: BTreeMap<u32, TaskOutput>,
    /// How often tasks were reopened because an object was missing.
    pub reopened: BTreeMap<u32, u32>,
    /// Time it had been open at its latest completion.
    pub elapsed_ms: u64,
}

/// A published generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishedGeneration {
    /// How its negatives were mined.
    pub kind: GenerationKind,
    /// The one checkpoint it stems from (law 2).
    pub checkpoint: CheckpointRef,
    /// Its manifest.
    pub manifest: ObjectRef,
    /// Dev metrics.
    pub metrics: BTreeMap<String, f64>,
    /// What mining dropped or lacked.
    pub counts: BTreeMap<String, u64>,
    /// From opening to publication.
    pub seconds: f64,
    /// Number of its tasks, and of their outputs: equal (law 2).
    pub tasks: (u32, u32),
    /// Runs and metrics: what stays when the rest is collected.
    pub records: Vec<ObjectRef>,
    /// Whether its bulk is still in the store.
    pub life: Life,
}

/// A generation given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AbortedGeneration {
    /// How its negatives were to be mined.
    pub kind: GenerationKind,
    /// The checkpoint it stemmed from.
    pub checkpoint: CheckpointRef,
    /// Why.
    pub reason: String,
    /// Epoch of the coordinator that gave it up.
    pub epoch: u64,
    /// Whether its objects are deleted.
    pub collected: bool,
}

/// One line of the version log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapRecord {
    /// First step that uses the generation.
    pub step: u64,
    /// Activation the trainer followed.
    pub activation: u64,
    /// The generation.
    pub generation: u64,
    /// Digest of that generation's checkpoint.
    pub checkpoint: Digest,
    /// The trainer's process, if it said which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
}

impl Run {
    /// The generation that is active now.
    #[must_use]
    pub fn active(&self) -> Option<(u64, &PublishedGeneration)> {
        let generation = *self.activations.last()?;
        Some((generation, self.published.get(&generation)?))
    }

    /// The newest checkpoint: most steps, then latest publication.
    #[must_use]
    pub fn newest(&self) -> Option<&CheckpointRef> {
        self.checkpoints
            .iter()
            .map(|c| &c.reference)
            .max_by_key(|c| c.step)
    }

    /// Whether training has ended.
    #[must_use]
    pub fn trained(&self) -> bool {
        self.final_checkpoint.is_some()
    }

    /// The current activation as the trainer hears of it.
    #[must_use]
    pub fn announcement(&self) -> Option<Announcement> {
        let (generation, published) = self.active()?;
        Some(Announcement {
            activation: self.activations.len() as u64,
            generation,
            checkpoint: published.checkpoint.clone(),
            manifest: published.manifest.clone(),
        })
    }

    /// Applies one change. Total: a change about something unknown is ignored.
    pub fn evolve(&mut self, change: &Change) {
        match change {
            Change::EpochStarted { epoch, address } => {
                self.epoch = *epoch;
                self.leader.clone_from(address);
            }
            Change::CheckpointPublished {
                checkpoint,
                is_final,
            } => self.add_checkpoint(checkpoint, *is_final),
            Change::GenerationOpened { .. }
            | Change::TaskCompleted { .. }
            | Change::TaskReopened { .. } => self.evolve_open(change),
            Change::GenerationPublished { .. } => self.publish(change),
            Change::GenerationAborted { generation, reason } => self.abort(*generation, reason),
            Change::RolledBack { generation, .. } => self.activations.push(*generation),
            Change::GenerationRetired { generation } => {
                self.set_generation_life(*generation, Life::Retired);
            }
            Change::GenerationCollected { generation } => {
                self.set_generation_life(*generation, Life::Collected);
            }
            Change::CheckpointRetired { checkpoint } => {
                self.set_checkpoint_life(checkpoint, Life::Retired);
            }
            Change::CheckpointCollected { checkpoint } => {
                self.set_checkpoint_life(checkpoint, Life::Collected);
            }
            Change::TrainerSwapped {
                step,
                activation,
                generation,
                checkpoint,
                session,
            } => {
                // A resumed trainer takes its steps again: what the lost steps
                // used is superseded.
                self.swaps.retain(|swap| swap.step < *step);
                self.swaps.push(SwapRecord {
                    step: *step,
                    activation: *activation,
                    generation: *generation,
                    checkpoint: checkpoint.clone(),
                    session: *session,
                });
            }
            Change::RefreshPaused { paused } => self.paused = *paused,
        }
    }

    fn add_checkpoint(&mut self, checkpoint: &CheckpointRef, is_final: bool) {
        self.checkpoints.retain(|c| c.reference != *checkpoint);
        self.checkpoints.push(Checkpoint {
            reference: checkpoint.clone(),
            life: Life::Kept,
        });
        // A run that was extended goes on after what was its end. Word of an earlier
        // checkpoint is old news: it says nothing about the end.
        let ended = self.final_checkpoint.as_ref();
        if is_final || ended.is_some_and(|end| checkpoint.step > end.step) {
            self.final_checkpoint = is_final.then(|| checkpoint.clone());
        }
    }

    fn evolve_open(&mut self, change: &Change) {
        if let Change::GenerationOpened {
            generation,
            kind,
            checkpoint,
            tasks,
        } = change
        {
            self.next_generation = generation.saturating_add(1);
            self.open = Some(OpenGeneration {
                generation: *generation,
                kind: *kind,
                checkpoint: checkpoint.clone(),
                tasks: *tasks,
                done: BTreeMap::new(),
                reopened: BTreeMap::new(),
                elapsed_ms: 0,
            });
            return;
        }
        let Some(open) = self.open.as_mut() else {
            return;
        };
        match change {
            Change::TaskCompleted {
                generation,
                task,
                output,
                elapsed_ms,
            } if *generation == open.generation => {
                open.done.insert(*task, output.clone());
                open.elapsed_ms = *elapsed_ms;
            }
            Change::TaskReopened {
                generation, task, ..
            } if *generation == open.generation => {
                open.done.remove(task);
                *open.reopened.entry(*task).or_default() += 1;
            }
            _ => {}
        }
    }

    fn publish(&mut self, change: &Change) {
        let Change::GenerationPublished {
            generation,
            manifest,
            metrics,
            counts,
            seconds,
            ..
        } = change
        else {
            return;
        };
        let Some(open) = self.open.take_if(|open| open.generation == *generation) else {
            return;
        };
        let records = open
            .done
            .values()
            .flat_map(|output| output.of(Role::Run).chain(output.of(Role::Metrics)))
            .cloned()
            .collect();
        let published = PublishedGeneration {
            kind: open.kind,
            checkpoint: open.checkpoint,
            manifest: manifest.clone(),
            metrics: metrics.clone(),
            counts: counts.clone(),
            seconds: *seconds,
            tasks: (open.tasks, open.done.len() as u32),
            records,
            life: Life::Kept,
        };
        self.published.insert(*generation, published);
        self.activations.push(*generation);
    }

    fn abort(&mut self, generation: u64, reason: &str) {
        let Some(open) = self.open.take_if(|open| open.generation == generation) else {
            return;
        };
        let aborted = AbortedGeneration {
            kind: open.kind,
            checkpoint: open.checkpoint,
            reason: reason.to_owned(),
            epoch: self.epoch,
            collected: false,
        };
        self.aborted.insert(generation, aborted);
    }

    fn set_generation_life(&mut self, generation: u64, life: Life) {
        if let Some(published) = self.published.get_mut(&generation) {
            published.life = life;
        }
        if let Some(aborted) = self.aborted.get_mut(&generation) {
            aborted.collected = life == Life::Collected;
        }
    }

    fn set_checkpoint_life(&mut self, checkpoint: &CheckpointRef, life: Life) {
        for known in &mut self.checkpoints {
            if known.reference == *checkpoint {
                known.life = life;
            }
        }
    }
}
