//! `[refresh]`: when a generation is opened, how stale negatives may become.

use serde::{Deserialize, Serialize};

/// `[refresh]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Refresh {
    /// When a new generation is opened.
    pub when: RefreshWhen,
    /// With `when = "steps"`: the least distance, in steps, between the
    /// checkpoints of two generations.
    pub every_steps: u64,
    /// Largest staleness (steps between the trainer and the checkpoint of the
    /// active generation) before `on_stale` applies; 0 is no bound.
    pub max_staleness: u64,
    /// What happens beyond `max_staleness`.
    pub on_stale: OnStale,
    /// Generations kept in the store; older ones are collected.
    pub keep_generations: usize,
}

impl Default for Refresh {
    fn default() -> Self {
        Self {
            when: RefreshWhen::Idle,
            every_steps: 0,
            max_staleness: 0,
            on_stale: OnStale::Warn,
            keep_generations: 3,
        }
    }
}

/// When a new generation is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefreshWhen {
    /// As soon as the fleet is idle and a newer checkpoint exists (ANCE).
    Idle,
    /// At most once every `every_steps` trainer steps.
    Steps,
    /// Never after generation 0: static negatives (DPR, STAR).
    Never,
}

/// What happens when negatives are older than `max_staleness`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStale {
    /// The trainer waits for a newer generation and says for how long.
    Block,
    /// Training goes on and says so.
    Warn,
    /// Training goes on silently; status still shows it.
    Off,
}
