//! The laws over the log: a second reading of every record, independent of the
//! coordinators' own, made the moment it lands.
//!
//! Keeps nothing the records do not say, and shares no code with the state
//! machine but the plan of a generation's tasks.

use crate::counts::Counts;
use crate::generations::{Generation, Stage};
use crate::objects::Objects;
use quarry_artifacts::{CheckpointRef, layout};
use quarry_coordinator::log::Record;
use quarry_coordinator::state::{Change, Run, Settings};
use std::collections::{BTreeMap, BTreeSet};

/// A checkpoint as the log tells of it.
pub struct Checkpoint {
    pub reference: CheckpointRef,
    pub kept: bool,
    pub collected: bool,
}

/// Everything the log says.
pub struct Ledger {
    pub settings: Settings,
    /// The coordinators' own reading.
    run: Run,
    pub sequence: u64,
    epoch: u64,
    writer: String,
    pub generations: BTreeMap<u64, Generation>,
    pub activations: Vec<u64>,
    /// By path of the manifest.
    pub checkpoints: BTreeMap<String, Checkpoint>,
    pub final_checkpoint: Option<CheckpointRef>,
    /// Step, activation, generation; steps rising.
    pub swaps: Vec<(u64, u64, u64)>,
    pub swaps_ever: BTreeSet<(u64, u64, u64)>,
    pub counts: Counts,
}

/// A law, and how it is broken if it does not hold.
pub fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Ledger {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            run: Run::default(),
            sequence: 0,
            epoch: 0,
            writer: String::new(),
            generations: BTreeMap::new(),
            activations: vec![],
            checkpoints: BTreeMap::new(),
            final_checkpoint: None,
            swaps: vec![],
            swaps_ever: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// Enters the record that landed under `sequence`.
    ///
    /// # Errors
    /// The law it breaks.
    pub fn enter(
        &mut self,
        sequence: u64,
        record: &Record,
        objects: &Objects,
    ) -> Result<(), String> {
        let writer = &record.writer;
        require(
            sequence == self.sequence + 1 && record.sequence == sequence,
            || {
                format!(
                    "law 6: record {sequence} of {writer} follows record {}",
                    self.sequence
                )
            },
        )?;
        self.sequence = sequence;
        let begins = match record.changes.first() {
            Some(Change::EpochStarted { epoch, .. }) => Some(*epoch),
            _ => None,
        };
        match begins {
            Some(epoch) => {
                require(epoch == self.epoch + 1 && record.epoch == epoch, || {
                    format!("law 6: epoch {epoch} follows epoch {}", self.epoch)
                })?;
                self.epoch = epoch;
                self.writer.clone_from(writer);
                self.counts.epochs += 1;
            }
            None => require(record.epoch == self.epoch && *writer == self.writer, || {
                let (now, owner) = (self.epoch, &self.writer);
                format!(
                    "law 6: {writer} wrote in epoch {} while {owner} holds {now}",
                    record.epoch
                )
            })?,
        }
        record
            .changes
            .iter()
            .for_each(|change| self.run.evolve(change));
        for change in record.changes.iter().skip(usize::from(begins.is_some())) {
            self.change(change, objects)?;
        }
        self.check_announced(record, objects)
    }

    fn change(&mut self, change: &Change, objects: &Objects) -> Result<(), String> {
        match change {
            Change::EpochStarted { .. } => Err("law 6: an epoch begins inside a record".into()),
            Change::CheckpointPublished {
                checkpoint,
                is_final,
            } => {
                self.add_checkpoint(checkpoint, *is_final);
                Ok(())
            }
            Change::GenerationOpened { .. } => self.open(change),
            Change::TaskCompleted {
                generation,
                task,
                output,
                ..
            } => self.complete(*generation, *task, output),
            Change::TaskReopened {
                generation, task, ..
            } => {
                self.counts.reopened += 1;
                let done = self.open_one(*generation)?.done.remove(task);
                require(done.is_some(), || {
                    format!("law 2: task {task} was reopened undone")
                })
            }
            Change::GenerationPublished { .. } => self.publish(change, objects),
            Change::GenerationAborted { generation, .. } => {
                self.counts.aborted += 1;
                self.open_one(*generation)?.stage = Stage::Aborted;
                Ok(())
            }
            Change::RolledBack {
                activation,
                generation,
            } => {
                self.counts.rollbacks += 1;
                let kept = self
                    .generations
                    .get(generation)
                    .is_some_and(|g| g.stage == Stage::Kept);
                require(kept, || {
                    format!("law 3: a rollback to generation {generation}")
                })?;
                self.activate(*activation, *generation)
            }
            Change::GenerationRetired { generation } => self.retire(*generation),
            Change::GenerationCollected { generation } => {
                self.counts.collected += 1;
                let known = self.generations.get_mut(generation);
                let retired = known.filter(|g| matches!(g.stage, Stage::Retired | Stage::Aborted));
                let retired = retired.ok_or("retention: a generation in use was collected")?;
                retired.collected = true;
                Ok(())
            }
            Change::CheckpointRetired { checkpoint } => self.retire_checkpoint(checkpoint),
            Change::CheckpointCollected { checkpoint } => {
                let known = self.checkpoints.get_mut(&checkpoint.manifest);
                let retired = known.filter(|c| !c.kept);
                retired
                    .ok_or("retention: a checkpoint in use was collected")?
                    .collected = true;
                Ok(())
            }
            Change::TrainerSwapped {
                step,
                activation,
                generation,
                checkpoint,
                ..
            } => {
                self.counts.swaps += 1;
                let stems = self.generations.get(generation);
                let stems = stems.is_some_and(|g| g.checkpoint.digest == *checkpoint);
                let active = self.activations.get((*activation as usize).wrapping_sub(1))
                    == Some(generation);
                require(stems && active, || {
                    format!("law 4: the swap at step {step} names what was never active")
                })?;
                self.swaps.retain(|(at, ..)| at < step);
                self.swaps.push((*step, *activation, *generation));
                self.swaps_ever.insert((*step, *activation, *generation));
                Ok(())
            }
            Change::RefreshPaused { .. } => Ok(()),
        }
    }

    fn add_checkpoint(&mut self, checkpoint: &CheckpointRef, is_final: bool) {
        let known = Checkpoint {
            reference: checkpoint.clone(),
            kept: true,
            collected: false,
        };
        self.checkpoints.insert(checkpoint.manifest.clone(), known);
        let end = self.final_checkpoint.as_ref().map(|end| end.step);
        if is_final || end.is_some_and(|end| checkpoint.step > end) {
            self.final_checkpoint = is_final.then(|| checkpoint.clone());
        }
    }

    /// What a record announces and does not retire again is in the store.
    fn check_announced(&self, record: &Record, objects: &Objects) -> Result<(), String> {
        for change in &record.changes {
            if let Change::CheckpointPublished { checkpoint, .. } = change {
                let manifest = &checkpoint.manifest;
                let kept = self.checkpoints.get(manifest).is_some_and(|c| c.kept);
                let folder = manifest.trim_end_matches(layout::MANIFEST);
                let whole = objects.is_whole(manifest) && objects.are_whole(folder);
                require(!kept || whole, || {
                    format!("durability: {manifest} is kept, but not whole in the store")
                })?;
            }
        }
        Ok(())
    }

    /// The newest checkpoint.
    pub fn newest(&self) -> Option<&CheckpointRef> {
        let all = self.checkpoints.values().map(|c| &c.reference);
        all.max_by_key(|c| c.step)
    }

    /// Whether the coordinator `name`, if it is the writer, holds the run to be what
    /// the log says.
    pub fn check_belief(&self, name: &str, run: &Run) -> Result<(), String> {
        require(self.writer != name || self.run == *run, || {
            format!("durability: {name} holds the run to be what the log does not say")
        })
    }

    /// Whether the snapshot of the run after record `sequence` is that, as far as it
    /// is the latest.
    pub fn check_snapshot(&self, sequence: u64, run: &Run) -> Result<(), String> {
        require(self.sequence != sequence || self.run == *run, || {
            format!("durability: the snapshot of record {sequence} is of another run")
        })
    }
}
