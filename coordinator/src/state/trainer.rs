//! What the trainer reports: checkpoints, swaps and progress. And what people
//! ask for: rollbacks and pauses.

use super::State;
use super::change::Change;
use super::event::{Answer, Effect, Event, Rejected};
use super::run::{Life, SwapRecord};
use quarry_artifacts::CheckpointRef;

impl State {
    pub(super) fn checkpoint_published(
        &mut self,
        checkpoint: CheckpointRef,
        is_final: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer, Rejected> {
        let known = self
            .run
            .checkpoints
            .iter()
            .find(|c| c.reference == checkpoint);
        let unchanged = is_final == (self.run.final_checkpoint.as_ref() == Some(&checkpoint));
        match known.map(|known| known.life) {
            Some(Life::Kept) if unchanged => return Ok(Answer::Done),
            // Told again after the end: no reason to forget the end.
            Some(Life::Kept) if !is_final => return Ok(Answer::Done),
            Some(Life::Retired) => {
                let reason = format!(
                    "checkpoint {} of step {} is being deleted; publish it again in a minute",
                    checkpoint.digest.short(),
                    checkpoint.step
                );
                return Err(Rejected::Precondition(reason));
            }
            Some(Life::Kept | Life::Collected) | None => {}
        }
        let key = (checkpoint.step, Some(checkpoint.digest.to_string()));
        self.collecting.remove(&key);
        let change = Change::CheckpointPublished {
            checkpoint,
            is_final,
        };
        self.record(change, effects);
        Ok(Answer::Done)
    }

    /// Takes a line of the version log (law 4), if it names what was activated.
    pub(super) fn trainer_swapped(
        &mut self,
        event: Event,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer, Rejected> {
        let Event::TrainerSwapped {
            step,
            activation,
            generation,
            checkpoint,
            session,
        } = event
        else {
            return Ok(Answer::Done);
        };
        let index = activation
            .checked_sub(1)
            .and_then(|i| usize::try_from(i).ok());
        let activated = index.and_then(|i| self.run.activations.get(i)).copied();
        let stems = self
            .run
            .published
            .get(&generation)
            .map(|g| &g.checkpoint.digest);
        if activated != Some(generation) || stems != Some(&checkpoint) {
            let reason = format!(
                "activation {activation} did not make generation {generation} of checkpoint {} active",
                checkpoint.short()
            );
            return Err(Rejected::Unknown(reason));
        }
        if self
            .run
            .published
            .get(&generation)
            .is_some_and(|g| g.life != Life::Kept)
        {
            let reason = format!(
                "generation {generation} is retired and its negatives are deleted; switch to the active one"
            );
            return Err(Rejected::Precondition(reason));
        }
        let line = (step, activation);
        let heard = |last: &SwapRecord| {
            let at = (last.step, last.activation);
            // Steps are taken again only by another process: from the same one this is
            // an early message that comes late, and must not erase what followed it.
            let late = session.is_some() && last.session == session && line < at;
            line == at || late
        };
        if self.run.swaps.last().is_some_and(heard) {
            return Ok(Answer::Done);
        }
        let change = Change::TrainerSwapped {
            step,
            activation,
            generation,
            checkpoint,
            session,
        };
        self.record(change, effects);
        Ok(Answer::Done)
    }

    /// Makes an earlier generation active again, by a new record (law 3).
    pub(super) fn roll_back(
        &mut self,
        generation: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer, Rejected> {
        let current = self.run.activations.len() as u64;
        match self.run.published.get(&generation).map(|g| g.life) {
            None => {
                let reason = format!(
                    "generation {generation} was never published; list them with `quarry generations`"
                );
                return Err(Rejected::Unknown(reason));
            }
            Some(Life::Retired | Life::Collected) => {
                let reason = format!(
                    "generation {generation} is retired and its negatives are deleted; choose a later one or raise refresh.keep_generations"
                );
                return Err(Rejected::Precondition(reason));
            }
            Some(Life::Kept) if self.run.activations.last() == Some(&generation) => {
                return Ok(Answer::Activated {
                    activation: current,
                });
            }
            Some(Life::Kept) => {}
        }
        if self.settings.script.is_some() {
            let reason = "this run repeats a version log, which fixes its generations; start a run of its own to roll back";
            return Err(Rejected::Precondition(reason.to_owned()));
        }
        self.return_to(generation, effects);
        let activation = current + 1;
        Ok(Answer::Activated { activation })
    }

    /// Makes a published generation active again.
    pub(super) fn return_to(&mut self, generation: u64, effects: &mut Vec<Effect>) {
        let change = Change::RolledBack {
            activation: self.run.activations.len() as u64 + 1,
            generation,
        };
        self.record(change, effects);
        effects.extend(self.run.announcement().map(Effect::Announce));
    }
}
