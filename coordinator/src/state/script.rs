//! A run that repeats a version log: the recipe's refresh policy rests, and the
//! log says which generation comes next and which checkpoint it stems from.
//!
//! Generations are made in the order of the log, each as soon as its checkpoint is
//! there. The trainer takes them at the log's steps; whatever the timing, it sees
//! the same negatives at the same steps (law 4).

use super::State;
use super::refresh::Due;
use super::run::Life;
use quarry_artifacts::{Digest, VersionLog, VersionSwap};
use std::collections::BTreeSet;

impl State {
    /// What the log wants next, if it can be had now.
    pub(super) fn scripted(&self, log: &VersionLog) -> Option<Due> {
        let run = &self.run;
        let next = self.upcoming(log).first()?;
        if let Some(generation) = self.stemming(next) {
            return Some(Due::Return { generation });
        }
        let of =
            |step: u64, digest: &Digest| step == next.checkpoint_step && *digest == next.checkpoint;
        let mut known = run.checkpoints.iter().map(|c| &c.reference);
        let checkpoint = known.find(|c| of(c.step, &c.digest))?.clone();
        let given_up = run.aborted.values().any(|g| {
            let stem = &g.checkpoint;
            g.kind == next.kind && of(stem.step, &stem.digest) && g.epoch == run.epoch
        });
        // Given up in this epoch: only a restart tries again.
        (!given_up).then_some(Due::Open {
            kind: next.kind,
            checkpoint,
        })
    }

    /// The swap of the log that waits for its checkpoint.
    pub(super) fn awaited(&self) -> Option<&VersionSwap> {
        let log = self.settings.script.as_ref()?;
        match self.scripted(log) {
            Some(_) => None,
            None => self.upcoming(log).first(),
        }
    }

    /// Swaps of the log whose generation has not become active yet.
    fn upcoming<'a>(&self, log: &'a VersionLog) -> &'a [VersionSwap] {
        log.swaps
            .get(self.run.activations.len()..)
            .unwrap_or_default()
    }

    /// The generation in the store that a swap of the log stands for.
    fn stemming(&self, swap: &VersionSwap) -> Option<u64> {
        let mut published = self.run.published.iter();
        published
            .find(|(_, g)| {
                g.kind == swap.kind
                    && g.checkpoint.step == swap.checkpoint_step
                    && g.checkpoint.digest == swap.checkpoint
                    && g.life == Life::Kept
            })
            .map(|(number, _)| *number)
    }

    /// Generations that the rest of the log returns to.
    pub(super) fn scripted_generations(&self) -> BTreeSet<u64> {
        let Some(log) = &self.settings.script else {
            return BTreeSet::new();
        };
        let upcoming = self.upcoming(log).iter();
        upcoming.filter_map(|swap| self.stemming(swap)).collect()
    }

    /// Steps of the checkpoints that the rest of the log mines with.
    pub(super) fn scripted_checkpoints(&self) -> BTreeSet<u64> {
        let Some(log) = &self.settings.script else {
            return BTreeSet::new();
        };
        let upcoming = self.upcoming(log).iter();
        upcoming.map(|swap| swap.checkpoint_step).collect()
    }
}
