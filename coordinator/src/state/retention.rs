//! What is deleted, and what never is.
//!
//! A retirement is durable before anything is deleted, so a restart continues
//! a deletion that was cut short. Runs, metrics and manifests stay for ever.

use super::State;
use super::change::Change;
use super::event::Effect;
use super::run::Life;
use quarry_artifacts::{CheckpointRef, GenerationKind};
use std::collections::BTreeSet;

impl State {
    /// Retires what the policy no longer keeps, and asks for the deletion of
    /// everything that is retired and still there. A run grows long, so it is not looked
    /// through at every heartbeat and task.
    pub(super) fn retire(&mut self, effects: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.retention_due) {
            return;
        }
        let kept = self.generations_to_keep();
        let live = self
            .run
            .published
            .iter()
            .filter(|(_, g)| g.life == Life::Kept);
        let retired: Vec<u64> = live
            .map(|(n, _)| *n)
            .filter(|n| !kept.contains(n))
            .collect();
        for generation in retired {
            self.record(Change::GenerationRetired { generation }, effects);
        }
        let kept = self.checkpoints_to_keep();
        let live = self.run.checkpoints.iter().filter(|c| c.life == Life::Kept);
        let retired = live
            .map(|c| &c.reference)
            .filter(|c| !kept.contains(&key(c)));
        for checkpoint in retired.cloned().collect::<Vec<_>>() {
            self.record(Change::CheckpointRetired { checkpoint }, effects);
        }
        self.collect(effects);
    }

    /// Generations that must stay: the newest ones, the active one, and every
    /// one the trainer uses, may be about to use, or would use again if it
    /// resumed from its newest checkpoint.
    #[must_use]
    pub fn generations_to_keep(&self) -> BTreeSet<u64> {
        let run = &self.run;
        let newest = run.published.keys().rev();
        let mut kept: BTreeSet<u64> = newest
            .take(self.settings.recipe.refresh.keep_generations.max(1))
            .copied()
            .collect();
        kept.extend(run.activations.last());
        // The trainer may still be fetching any activation since its last swap.
        let followed = run.swaps.last().map_or(0, |swap| swap.activation);
        let not_left = run.activations.iter().enumerate();
        kept.extend(
            not_left
                .filter(|(i, _)| *i as u64 + 1 >= followed)
                .map(|(_, g)| g),
        );
        let resume = run.newest().map_or(0, |checkpoint| checkpoint.step);
        let at_resume = run.swaps.iter().rposition(|swap| swap.step <= resume);
        let replayed = run.swaps.iter().skip(at_resume.unwrap_or(0));
        kept.extend(replayed.map(|swap| swap.generation));
        kept.extend(self.scripted_generations());
        kept
    }

    /// Checkpoints that must stay, by step and digest: the first, the final,
    /// the last few, the best on dev, those a generation stems from that is open or
    /// kept, and those a version log will mine with.
    fn checkpoints_to_keep(&self) -> BTreeSet<(u64, String)> {
        let run = &self.run;
        let mut by_step: Vec<&CheckpointRef> =
            run.checkpoints.iter().map(|c| &c.reference).collect();
        by_step.sort_by_key(|c| c.step);
        let last = by_step
            .iter()
            .rev()
            .take(self.settings.recipe.train.keep_checkpoints.max(1));
        let script = self.scripted_checkpoints();
        let scripted = by_step.iter().filter(|c| script.contains(&c.step));
        let stems = run
            .published
            .values()
            .filter(|g| g.life == Life::Kept)
            .map(|g| &g.checkpoint);
        by_step
            .first()
            .into_iter()
            .chain(last)
            .chain(scripted)
            .copied()
            .chain(&run.final_checkpoint)
            .chain(run.open.as_ref().map(|open| &open.checkpoint))
            .chain(stems)
            .chain(self.best())
            .map(key)
            .collect()
    }

    /// The checkpoint with the best dev MRR@10 so far: the one to export.
    fn best(&self) -> Option<&CheckpointRef> {
        let name = format!("{}/mrr@10", self.settings.recipe.data.dev);
        let dense = self
            .run
            .published
            .values()
            .filter(|g| g.kind == GenerationKind::Dense);
        let scored = dense.filter_map(|g| Some((g.metrics.get(&name)?, &g.checkpoint)));
        let best = scored.max_by(|a, b| a.0.total_cmp(b.0))?;
        Some(best.1)
    }

    fn collect(&mut self, effects: &mut Vec<Effect>) {
        for (generation, published) in &self.run.published {
            if published.life == Life::Retired && self.collecting.insert((*generation, None)) {
                let records = published.records.iter().chain([&published.manifest]);
                effects.push(Effect::CollectGeneration {
                    generation: *generation,
                    keep: records.map(|object| object.path.clone()).collect(),
                });
            }
        }
        for (generation, aborted) in &self.run.aborted {
            if !aborted.collected && self.collecting.insert((*generation, None)) {
                effects.push(Effect::CollectGeneration {
                    generation: *generation,
                    keep: vec![],
                });
            }
        }
        for known in &self.run.checkpoints {
            let (step, digest) = key(&known.reference);
            if known.life == Life::Retired && self.collecting.insert((step, Some(digest))) {
                let checkpoint = known.reference.clone();
                effects.push(Effect::CollectCheckpoint { checkpoint });
            }
        }
    }
}

fn key(checkpoint: &CheckpointRef) -> (u64, String) {
    (checkpoint.step, checkpoint.digest.to_string())
}
