//! The laws over the log: a second reading of every record, independent of the
//! coordinators' own, made the moment it lands.
//!
//! Keeps nothing the records do not say, and shares no code with the state
//! machine but the plan of a generation's tasks.

use crate::objects::{Content, Objects};
use quarry_artifacts::{CheckpointRef, GenerationKind, GenerationManifest, ObjectRef};
use quarry_coordinator::log::Record;
use quarry_coordinator::state::{Change, Plan, Run, Settings};
use quarry_proto::{Role, TaskOutput};
use std::collections::{BTreeMap, BTreeSet};

/// The life of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Open,
    Kept,
    Retired,
    Aborted,
}

/// A generation as the log tells of it.
pub struct Generation {
    pub stage: Stage,
    kind: GenerationKind,
    pub checkpoint: CheckpointRef,
    pub done: BTreeMap<u32, TaskOutput>,
    /// Every output that ever counted, by task.
    counted: BTreeMap<u32, Vec<TaskOutput>>,
    pub manifest: Option<ObjectRef>,
    pub collected: bool,
}

impl Generation {
    pub fn outputs(&self) -> impl Iterator<Item = &(Role, ObjectRef)> {
        self.done.values().flat_map(|output| &output.outputs)
    }

    /// What stays when the rest is collected.
    pub fn records(&self) -> impl Iterator<Item = &ObjectRef> {
        let of_run = |(role, _): &&(Role, ObjectRef)| matches!(role, Role::Run | Role::Metrics);
        let outputs = self.outputs().filter(of_run).map(|(_, object)| object);
        outputs.chain(&self.manifest)
    }
}

/// A checkpoint as the log tells of it.
pub struct Checkpoint {
    pub reference: CheckpointRef,
    pub kept: bool,
    pub collected: bool,
}

/// How often things happened: whether a simulation reached what it is meant to.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    pub epochs: u64,
    pub completions: u64,
    pub published: u64,
    pub aborted: u64,
    pub reopened: u64,
    pub rollbacks: u64,
    pub swaps: u64,
    pub collected: u64,
    pub snapshots: u64,
}

impl Counts {
    /// Adds those of another simulation.
    pub fn add(&mut self, other: &Self) {
        self.epochs += other.epochs;
        self.completions += other.completions;
        self.published += other.published;
        self.aborted += other.aborted;
        self.reopened += other.reopened;
        self.rollbacks += other.rollbacks;
        self.swaps += other.swaps;
        self.collected += other.collected;
        self.snapshots += other.snapshots;
    }
}

/// Everything the log says.
pub struct Ledger {
    settings: Settings,
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
    swaps: Vec<(u64, u64, u64)>,
    pub swaps_ever: BTreeSet<(u64, u64, u64)>,
    pub counts: Counts,
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
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
            } => {
                self.counts.swaps += 1;
                let stems = self.generations.get(generation);
                let stems = stems.is_some_and(|g| g.checkpoint.digest == *checkpoint);
                let active = self.activations.get(*activation as usize - 1) == Some(generation);
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
                require(!kept || objects.is_whole(manifest), || {
                    format!("durability: {manifest} is kept, but it is not in the store")
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

    /// The generation, which must be open.
    fn open_one(&mut self, generation: u64) -> Result<&mut Generation, String> {
        let found = self.generations.get_mut(&generation);
        let open = found.filter(|g| g.stage == Stage::Open);
        open.ok_or_else(|| format!("law 2: generation {generation} is not open"))
    }

    fn open(&mut self, change: &Change) -> Result<(), String> {
        let Change::GenerationOpened {
            generation,
            kind,
            checkpoint,
            ..
        } = change
        else {
            return Ok(());
        };
        let open = self.generations.values().any(|g| g.stage == Stage::Open);
        require(!open, || "law 2: two generations are open".into())?;
        let newest = self.generations.keys().next_back();
        require(newest.is_none_or(|newest| newest < generation), || {
            format!("law 1: generation {generation} is opened a second time")
        })?;
        let known = self.checkpoints.get(&checkpoint.manifest);
        require(
            known.is_some_and(|c| c.kept && c.reference == *checkpoint),
            || {
                format!(
                    "law 2: generation {generation} is to stem from a checkpoint that is not kept"
                )
            },
        )?;
        let opened = Generation {
            stage: Stage::Open,
            kind: *kind,
            checkpoint: checkpoint.clone(),
            done: BTreeMap::new(),
            counted: BTreeMap::new(),
            manifest: None,
            collected: false,
        };
        self.generations.insert(*generation, opened);
        Ok(())
    }

    fn complete(&mut self, generation: u64, task: u32, output: &TaskOutput) -> Result<(), String> {
        self.counts.completions += 1;
        let open = self.open_one(generation)?;
        let before = open.done.insert(task, output.clone());
        require(before.is_none(), || {
            format!("law 2: task {task} of generation {generation} was counted twice")
        })?;
        open.counted.entry(task).or_default().push(output.clone());
        Ok(())
    }

    /// Whether an output that was answered as accepted is one that counted.
    pub fn check_accepted(
        &self,
        (generation, task): (u64, u32),
        output: &TaskOutput,
    ) -> Result<(), String> {
        let known = self.generations.get(&generation);
        let counted = known.and_then(|g| g.counted.get(&task));
        let ours = |counted: &TaskOutput| counted.outputs == output.outputs;
        require(counted.is_some_and(|all| all.iter().any(ours)), || {
            format!(
                "law 2: task {task} of generation {generation} has an accepted output that does not count"
            )
        })
    }

    /// Law 2, looked at in the store itself.
    fn publish(&mut self, change: &Change, objects: &Objects) -> Result<(), String> {
        let Change::GenerationPublished {
            generation,
            activation,
            manifest,
            ..
        } = change
        else {
            return Ok(());
        };
        self.counts.published += 1;
        let number = *generation;
        let short = |why: String| format!("law 2: generation {number} is short: {why}");
        let kind = self.open_one(number)?.kind;
        let planned = Plan::new(&self.settings, kind).len();
        let open = self.open_one(number)?;
        let all = (0..planned).all(|task| open.done.contains_key(&task));
        require(all && open.done.len() as u32 == planned, || {
            short(format!("{} of {planned} tasks", open.done.len()))
        })?;
        for (_, object) in open.outputs() {
            let bytes = objects.verified(object).map_err(short)?;
            let content: Content =
                serde_json::from_slice(bytes).map_err(|e| short(e.to_string()))?;
            require(content.checkpoint == open.checkpoint.digest, || {
                let (found, path) = (content.checkpoint.short(), &object.path);
                format!("law 2: generation {number} is mixed: {path} stems from checkpoint {found}")
            })?;
        }
        let bytes = objects.verified(manifest).map_err(short)?;
        let published: GenerationManifest =
            serde_json::from_slice(bytes).map_err(|e| short(e.to_string()))?;
        let outputs: BTreeSet<&ObjectRef> = open.outputs().map(|(_, object)| object).collect();
        let matches = published.generation == number
            && published.checkpoint == open.checkpoint
            && published.objects().all(|object| outputs.contains(object));
        require(matches, || {
            format!("law 2: the manifest of generation {number} is another's")
        })?;
        open.manifest = Some(manifest.clone());
        open.stage = Stage::Kept;
        self.activate(*activation, number)
    }

    fn activate(&mut self, activation: u64, generation: u64) -> Result<(), String> {
        self.activations.push(generation);
        let expected = self.activations.len() as u64;
        require(activation == expected, || {
            format!("law 3: activation {activation} where {expected} is due")
        })
    }

    fn retire(&mut self, generation: u64) -> Result<(), String> {
        let keep = self.settings.recipe.refresh.keep_generations.max(1);
        let published = self
            .generations
            .iter()
            .filter(|(_, g)| g.manifest.is_some());
        let mut needed: BTreeSet<u64> = published.map(|(n, _)| *n).rev().take(keep).collect();
        let followed = self
            .swaps
            .last()
            .map_or(0, |(_, activation, _)| *activation as usize);
        needed.extend(self.activations.iter().skip(followed.saturating_sub(1)));
        needed.extend(self.activations.last());
        let resume = self.newest().map_or(0, |c| c.step);
        let resumed = self.swaps.iter().rev().find(|(step, ..)| *step <= resume);
        needed.extend(resumed.map(|(.., generation)| *generation));
        require(!needed.contains(&generation), || {
            format!("retention: generation {generation} is retired and needed")
        })?;
        let known = self.generations.get_mut(&generation);
        let kept = known.filter(|g| g.stage == Stage::Kept);
        kept.ok_or("retention: what is not kept was retired")?.stage = Stage::Retired;
        Ok(())
    }

    fn retire_checkpoint(&mut self, checkpoint: &CheckpointRef) -> Result<(), String> {
        let stems = self.generations.values();
        let stems = stems.filter(|g| matches!(g.stage, Stage::Open | Stage::Kept));
        let mut needed = stems
            .map(|g| &g.checkpoint)
            .chain(self.newest())
            .chain(&self.final_checkpoint);
        require(
            needed.all(|needed| needed != checkpoint) && checkpoint.step > 0,
            || {
                format!(
                    "retention: checkpoint {} is retired and needed",
                    checkpoint.manifest
                )
            },
        )?;
        let known = self.checkpoints.get_mut(&checkpoint.manifest);
        let kept = known.filter(|c| c.kept);
        kept.ok_or("retention: a checkpoint was retired twice")?
            .kept = false;
        Ok(())
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

    /// Generations an operator may roll back to.
    pub fn kept(&self) -> Vec<u64> {
        let kept = self
            .generations
            .iter()
            .filter(|(_, g)| g.stage == Stage::Kept);
        let active = self.activations.last();
        kept.map(|(n, _)| *n)
            .filter(|n| Some(n) != active)
            .collect()
    }

    /// What is still to be made or deleted.
    pub fn unfinished(&self) -> Option<String> {
        let mut generations = self.generations.iter();
        let left = generations.find_map(|(number, g)| match (g.stage, g.collected) {
            (Stage::Open, _) => Some(format!("generation {number} is open")),
            (Stage::Retired | Stage::Aborted, false) => {
                Some(format!("generation {number} is not collected"))
            }
            _ => None,
        });
        let mut checkpoints = self.checkpoints.values();
        let uncollected = checkpoints.find(|c| !c.kept && !c.collected);
        left.or_else(|| {
            uncollected.map(|c| format!("checkpoint {} is not collected", c.reference.step))
        })
    }
}
