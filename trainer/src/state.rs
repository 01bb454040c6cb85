//! What a resumed trainer must know besides weights and moments.
//!
//! Owns: `trainer/state.json` of a checkpoint. Refuses: tensors.

use crate::negatives::Activation;
use anyhow::{Context, Result, ensure};
use quarry_artifacts::VersionSwap;
use quarry_recipe::{Recipe, Schedule};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Folder of a checkpoint that holds the trainer's own files.
pub const FOLDER: &str = "trainer";
/// The moments, inside [`FOLDER`].
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// This document, inside [`FOLDER`].
pub const STATE: &str = "state.json";

const VERSION: u32 = 1;

/// Where training stood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Version of this document's form.
    pub version: u32,
    /// Optimizer steps taken; the next step has this number.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Root of every random draw; draws are keyed by it, the step and the item,
    /// so that no generator state needs saving.
    pub seed: u64,
    /// Where the next batch begins in the order of the queries.
    pub position: Position,
    /// The course of the learning rate.
    pub schedule: ScheduleState,
    /// The active generation; unset before the first step.
    pub active: Option<Activation>,
    /// The version log so far: which steps used which generation.
    pub swaps: Vec<VersionSwap>,
    /// File of the losses so far, as given by `--losses`.
    pub losses: Option<String>,
}

/// A place in the order of the training queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The query's place in the epoch's order, from 0.
    pub query: u64,
}

/// What the learning rate is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleState {
    /// Its shape.
    pub shape: Schedule,
    /// Its peak.
    pub peak: f64,
    /// Share of the steps spent warming up.
    pub warmup_ratio: f64,
}

impl TrainerState {
    /// The state after `step` of `total_steps` steps over `queries` queries.
    #[must_use]
    pub fn new(recipe: &Recipe, step: u64, total_steps: u64, queries: usize) -> Self {
        let train = &recipe.train;
        let drawn = step * train.batch_size as u64;
        Self {
            version: VERSION,
            step,
            total_steps,
            seed: recipe.seed,
            position: Position {
                epoch: drawn / queries as u64,
                query: drawn % queries as u64,
            },
            schedule: ScheduleState {
                shape: train.schedule,
                peak: train.learning_rate,
                warmup_ratio: train.warmup_ratio,
            },
            active: None,
            swaps: Vec::new(),
            losses: None,
        }
    }

    /// Reads the state in checkpoint folder `folder`.
    ///
    /// # Errors
    /// A missing or foreign document.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FOLDER).join(STATE);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let state: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is no trainer state of this version", path.display()))?;
        ensure!(
            state.version == VERSION,
            "{} has version {} but this program reads {VERSION}",
            path.display(),
            state.version
        );
        Ok(state)
    }

    /// Refuses a state that another recipe or data set made: its next batch and
    /// rate would not be the ones of the run it belongs to.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, expected: &Self) -> Result<()> {
        let same = self.seed == expected.seed
            && self.total_steps == expected.total_steps
            && self.position == expected.position
            && self.schedule == expected.schedule;
        ensure!(
            same,
            "the checkpoint of step {} was made by a run with another seed, length, batch size or schedule; use the store of this run, or start a new one",
            self.step
        );
        Ok(())
    }

    /// Writes the state into checkpoint folder `folder`.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FOLDER).join(STATE);
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
