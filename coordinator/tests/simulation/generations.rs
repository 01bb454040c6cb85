//! Laws 2 and 3 over the log: what a generation is made of, and when it is active.

use crate::ledger::{Ledger, require};
use crate::objects::{Content, Objects};
use quarry_artifacts::{CheckpointRef, GenerationKind, GenerationManifest, ObjectRef};
use quarry_coordinator::state::{Change, Plan};
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
    pub kind: GenerationKind,
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

impl Ledger {
    /// The generation, which must be open.
    pub fn open_one(&mut self, generation: u64) -> Result<&mut Generation, String> {
        let found = self.generations.get_mut(&generation);
        let open = found.filter(|g| g.stage == Stage::Open);
        open.ok_or_else(|| format!("law 2: generation {generation} is not open"))
    }

    pub fn open(&mut self, change: &Change) -> Result<(), String> {
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

    pub fn complete(
        &mut self,
        generation: u64,
        task: u32,
        output: &TaskOutput,
    ) -> Result<(), String> {
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
    pub fn publish(&mut self, change: &Change, objects: &Objects) -> Result<(), String> {
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

    pub fn activate(&mut self, activation: u64, generation: u64) -> Result<(), String> {
        self.activations.push(generation);
        let expected = self.activations.len() as u64;
        require(activation == expected, || {
            format!("law 3: activation {activation} where {expected} is due")
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
}
