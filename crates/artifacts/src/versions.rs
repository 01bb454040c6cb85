//! The version log of a run: which generation its trainer used from which step on.
//!
//! Together with recipe, data and first model it determines the final weights to
//! the last bit (law 4), so a run can be replayed from it, whatever the timing of
//! its refreshes was. Owns the document and its consistency; how a run follows one
//! is the coordinator's and the trainer's business.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::checkpoint::CheckpointManifest;
use crate::digest::Digest;
use crate::error::{ArtifactError, Result};
use crate::generation::GenerationKind;

const KIND: &str = "version log";

/// A version log and what it belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionLog {
    /// Version of this document's form.
    pub version: u32,
    /// The whole recipe of the run.
    pub recipe: serde_json::Value,
    /// The prepared corpus.
    pub corpus: Digest,
    /// The model training started from.
    pub initial: Digest,
    /// The swaps, steps rising from 0.
    pub swaps: Vec<VersionSwap>,
    /// Steps the log covers.
    pub steps: u64,
    /// The model after that many steps.
    pub model: Digest,
}

/// From this step on, the trainer used this generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionSwap {
    /// First step that used the generation.
    pub step: u64,
    /// The generation.
    pub generation: u64,
    /// How its negatives were mined.
    pub kind: GenerationKind,
    /// Step of the checkpoint it was mined with.
    pub checkpoint_step: u64,
    /// Digest of that checkpoint.
    pub checkpoint: Digest,
}

impl VersionSwap {
    /// Key of the version log so far among a checkpoint's notes.
    const NOTE: &str = "swaps";

    /// The version log so far as a note of a checkpoint.
    pub fn note(swaps: &[Self]) -> BTreeMap<String, serde_json::Value> {
        BTreeMap::from([(Self::NOTE.to_owned(), serde_json::json!(swaps))])
    }

    /// The version log that led to a checkpoint; `None` if a trainer did not write it.
    pub fn noted(checkpoint: &CheckpointManifest) -> Option<Vec<Self>> {
        let note = checkpoint.notes.get(Self::NOTE)?;
        Vec::deserialize(note).ok()
    }
}

impl VersionLog {
    /// The version this crate writes and reads.
    pub const VERSION: u32 = 1;

    /// Parses and checks a log; `path` is for the message.
    ///
    /// # Errors
    /// [`ArtifactError::Invalid`] with what is wrong.
    pub fn parse(bytes: &[u8], path: &str) -> Result<Self> {
        let invalid = |reason: String| ArtifactError::Invalid {
            path: path.to_owned(),
            kind: KIND,
            reason,
        };
        let log: Self = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
        log.check().map_err(invalid)?;
        Ok(log)
    }

    /// Whether a run could have written this log.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> std::result::Result<(), String> {
        if self.version != Self::VERSION {
            return Err(format!(
                "version is {}, this program reads {}",
                self.version,
                Self::VERSION
            ));
        }
        if self.swaps.first().map(|swap| swap.step) != Some(0) {
            return Err("the first swap is not at step 0".into());
        }
        let mut stems = BTreeMap::new();
        for (i, swap) in self.swaps.iter().enumerate() {
            let at = format!("swap {i} (generation {})", swap.generation);
            if i > 0 && swap.step <= self.swaps[i - 1].step {
                return Err(format!("{at}: steps do not rise"));
            }
            if swap.step >= self.steps || swap.checkpoint_step > swap.step {
                return Err(format!(
                    "{at}: step {} cannot use a checkpoint of step {} in a run of {} steps",
                    swap.step, swap.checkpoint_step, self.steps
                ));
            }
            let stem = (swap.kind, swap.checkpoint_step, &swap.checkpoint);
            if *stems.entry(swap.generation).or_insert(stem) != stem {
                return Err(format!("{at}: it has two checkpoints"));
            }
        }
        Ok(())
    }

    /// The swap that steps from `step` on follow: its place in the log and itself.
    pub fn at(&self, step: u64) -> Option<(usize, &VersionSwap)> {
        let after = self.swaps.partition_point(|swap| swap.step <= step);
        let index = after.checked_sub(1)?;
        Some((index, &self.swaps[index]))
    }

    /// Whether a generation of the log stems from the checkpoint of `step`.
    pub fn needs_checkpoint(&self, step: u64) -> bool {
        self.swaps.iter().any(|swap| swap.checkpoint_step == step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn swap(step: u64, generation: u64, checkpoint_step: u64) -> VersionSwap {
        VersionSwap {
            step,
            generation,
            kind: match generation {
                0 => GenerationKind::Bm25,
                _ => GenerationKind::Dense,
            },
            checkpoint_step,
            checkpoint: Digest::of(&checkpoint_step.to_le_bytes()),
        }
    }

    fn log(swaps: &[VersionSwap]) -> VersionLog {
        VersionLog {
            version: VersionLog::VERSION,
            recipe: json!({}),
            corpus: Digest::of(b"corpus"),
            initial: Digest::of(b"initial"),
            swaps: swaps.to_vec(),
            steps: 90,
            model: Digest::of(b"final"),
        }
    }

    #[test]
    fn a_log_with_a_skipped_generation_and_a_rollback_is_one() {
        let log = log(&[
            swap(0, 0, 0),
            swap(7, 1, 0),
            swap(30, 3, 20),
            swap(41, 2, 10), // rolled back to one that was never used
            swap(60, 5, 50),
        ]);
        log.check().unwrap();
        let at = |step| log.at(step).map(|(i, swap)| (i, swap.generation));
        assert_eq!(at(0), Some((0, 0)));
        assert_eq!(at(29), Some((1, 1)));
        assert_eq!(at(30), Some((2, 3)));
        assert_eq!(at(89), Some((4, 5)));
        assert!(log.needs_checkpoint(50) && !log.needs_checkpoint(30));
        let text = serde_json::to_vec(&log).unwrap();
        assert_eq!(VersionLog::parse(&text, "x").unwrap(), log);
    }

    #[test]
    fn logs_no_run_could_have_written_are_refused() {
        let refused = |swaps: &[VersionSwap]| log(swaps).check().unwrap_err();
        assert!(refused(&[]).contains("step 0"));
        assert!(refused(&[swap(3, 0, 0)]).contains("step 0"));
        assert!(refused(&[swap(0, 0, 0), swap(0, 1, 0)]).contains("rise"));
        assert!(refused(&[swap(0, 0, 0), swap(5, 1, 6)]).contains("checkpoint of step 6"));
        assert!(refused(&[swap(0, 0, 0), swap(90, 1, 6)]).contains("90 steps"));
        let twice = [swap(0, 0, 0), swap(5, 1, 0), swap(9, 2, 5), swap(12, 1, 5)];
        assert!(refused(&twice).contains("two checkpoints"));
        let mut other = log(&[swap(0, 0, 0)]);
        other.version = 2;
        assert!(other.check().unwrap_err().contains("version is 2"));
        let error = VersionLog::parse(b"{}", "log.json")
            .unwrap_err()
            .to_string();
        assert!(error.contains("log.json"), "{error}");
    }
}
