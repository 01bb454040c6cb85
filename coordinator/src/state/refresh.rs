//! The refresh policy: when a generation is opened, and on which checkpoint.

use super::State;
use super::change::Change;
use super::event::{Effect, Timestamp};
use super::generation::Board;
use super::plan::Plan;
use quarry_artifacts::{CheckpointRef, GenerationKind};
use quarry_recipe::RefreshWhen;

/// What is to become active next.
#[derive(Debug, Clone, PartialEq)]
pub enum Due {
    /// A new generation.
    Open {
        /// How its negatives are mined.
        kind: GenerationKind,
        /// The one checkpoint it stems from (law 2).
        checkpoint: CheckpointRef,
    },
    /// A generation that was active before; only a version log asks for it.
    Return {
        /// Which.
        generation: u64,
    },
}

impl State {
    /// What is due now, if anything.
    #[must_use]
    pub fn due(&self) -> Option<Due> {
        let run = &self.run;
        if run.open.is_some() || run.paused || run.trained() {
            return None;
        }
        match &self.settings.script {
            Some(log) => self.scripted(log),
            None => self
                .by_policy()
                .map(|(kind, checkpoint)| Due::Open { kind, checkpoint }),
        }
    }

    /// BM25 on the first checkpoint, then dense generations on the newest as the
    /// recipe says.
    fn by_policy(&self) -> Option<(GenerationKind, CheckpointRef)> {
        let run = &self.run;
        if !run
            .published
            .values()
            .any(|g| g.kind == GenerationKind::Bm25)
        {
            let first = run
                .checkpoints
                .iter()
                .map(|c| &c.reference)
                .min_by_key(|c| c.step)?;
            // Given up in this epoch: only a restart tries again.
            let given_up = self.last_attempt(GenerationKind::Bm25).is_some();
            return (!given_up).then(|| (GenerationKind::Bm25, first.clone()));
        }
        let newest = run.newest()?;
        let due = match (
            self.last_attempt(GenerationKind::Dense),
            &self.settings.recipe.refresh,
        ) {
            (_, refresh) if refresh.when == RefreshWhen::Never => false,
            (None, _) => true,
            (Some(last), refresh) if refresh.when == RefreshWhen::Steps => {
                // A trainer that waits for fresher negatives takes no more steps.
                let steps = if self.trainer_waits() {
                    1
                } else {
                    refresh.every_steps.max(1)
                };
                newest.step >= last.saturating_add(steps)
            }
            (Some(last), _) => newest.step > last,
        };
        due.then(|| (GenerationKind::Dense, newest.clone()))
    }

    /// Whether the trainer takes no more steps until there is a fresher generation.
    pub(super) fn trainer_waits(&self) -> bool {
        self.report().is_some_and(|report| report.blocked)
    }

    /// Step of the latest checkpoint such a generation was published on, or
    /// given up on since the coordinator started.
    fn last_attempt(&self, kind: GenerationKind) -> Option<u64> {
        let run = &self.run;
        let published = run
            .published
            .values()
            .filter(|g| g.kind == kind)
            .map(|g| g.checkpoint.step);
        let given_up = run
            .aborted
            .values()
            .filter(|g| g.kind == kind && g.epoch == run.epoch)
            .map(|g| g.checkpoint.step);
        published.chain(given_up).max()
    }

    /// Opens what is due. Every task gets the one checkpoint of the generation
    /// (law 2), and its number was never used before.
    pub(super) fn open_due(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let (kind, checkpoint) = match self.due() {
            None => return,
            Some(Due::Return { generation }) => return self.return_to(generation, effects),
            Some(Due::Open { kind, checkpoint }) => (kind, checkpoint),
        };
        let plan = Plan::new(&self.settings, kind);
        let change = Change::GenerationOpened {
            generation: self.run.next_generation,
            kind,
            checkpoint,
            tasks: plan.len(),
        };
        self.record(change, effects);
        self.opened = now;
        self.board = self.run.open.as_ref().map(|open| Board::new(plan, open));
    }
}
