//! What the log may retire, and what it must have collected in the end.

use crate::generations::Stage;
use crate::ledger::{Ledger, require};
use quarry_artifacts::CheckpointRef;
use std::collections::BTreeSet;

impl Ledger {
    pub fn retire(&mut self, generation: u64) -> Result<(), String> {
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

    pub fn retire_checkpoint(&mut self, checkpoint: &CheckpointRef) -> Result<(), String> {
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
