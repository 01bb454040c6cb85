//! What people should know now: one sentence, the gravest thing first.

use super::State;
use super::event::Timestamp;
use super::publication::Publishing;
use quarry_recipe::OnStale;

/// Silence after which a worker or the trainer is missed, in milliseconds.
const SILENCE_MS: u64 = 60_000;
/// Lost attempts at one task after which it is suspected of killing workers.
const SUSPICIOUS_LOSSES: u32 = 3;

impl State {
    /// What is wrong, and what to do about it; empty when all is well.
    #[must_use]
    pub fn trouble(&self, now: Timestamp) -> String {
        self.store_trouble()
            .or_else(|| self.task_trouble())
            .or_else(|| self.fleet_trouble(now))
            .or_else(|| self.given_up())
            .or_else(|| self.trainer_trouble(now))
            .or_else(|| self.refused())
            .or_else(|| self.unpublished())
            .or_else(|| self.unscripted())
            .or_else(|| self.stale())
            .unwrap_or_default()
    }

    fn store_trouble(&self) -> Option<String> {
        let open = self.run.open.as_ref()?;
        let Publishing::Failed { reason, .. } = &self.publishing else {
            return None;
        };
        let generation = open.generation;
        Some(format!(
            "generation {generation} is complete but cannot be published: {reason}"
        ))
    }

    fn task_trouble(&self) -> Option<String> {
        let (open, board) = (self.run.open.as_ref()?, self.board.as_ref()?);
        let undone = |task: &u32| !open.done.contains_key(task);
        let work = |task: &u32| board.plan.tasks[*task as usize].work.to_string();
        let mut failed = board.failures.iter().filter(|(task, _)| undone(task));
        if let Some((task, failures)) = failed.next() {
            let last = failures.last()?;
            let (count, worker, reason) = (failures.len(), &last.worker, &last.reason);
            return Some(format!(
                "{} failed {count} times, at last on {worker}: {reason}",
                work(task)
            ));
        }
        let lost = |(task, n): &(&u32, &u32)| **n >= SUSPICIOUS_LOSSES && undone(task);
        let (task, n) = board.lost.iter().find(lost)?;
        Some(format!(
            "{n} workers vanished while at {}; look at their logs for a lack of memory or disk",
            work(task)
        ))
    }

    fn fleet_trouble(&self, now: Timestamp) -> Option<String> {
        let open = self.run.open.as_ref()?;
        let silence = now.since(self.fleet.last_contact);
        (silence >= SILENCE_MS).then(|| {
            format!(
                "no inferencer has asked for work for {} s: generation {} waits; start one with quarry-inferencer",
                silence / 1000,
                open.generation
            )
        })
    }

    fn given_up(&self) -> Option<String> {
        let (generation, aborted) = self.run.aborted.last_key_value()?;
        let newer = self
            .run
            .published
            .keys()
            .next_back()
            .is_some_and(|n| n > generation);
        if newer || self.run.open.is_some() || aborted.epoch != self.run.epoch || self.run.trained()
        {
            return None;
        }
        Some(format!(
            "generation {generation} was given up: {}; remove the cause and restart the coordinator, or wait for the next checkpoint",
            aborted.reason
        ))
    }

    fn trainer_trouble(&self, now: Timestamp) -> Option<String> {
        let (at, _) = self.trainer.as_ref()?;
        let silence = now.since(*at);
        (silence >= SILENCE_MS && !self.run.trained()).then(|| {
            format!(
                "the trainer has not reported for {} s; if it is gone, go on with `quarry run --resume`",
                silence / 1000
            )
        })
    }

    /// Until a newer generation is active: what the trainer thinks of that one is
    /// not known yet.
    fn refused(&self) -> Option<String> {
        let refusal = self.report()?.refusal.as_ref()?;
        let newest = self.run.activations.len() as u64;
        if refusal.activation < newest || self.run.trained() {
            return None;
        }
        let instead = match self.run.swaps.last() {
            Some(swap) => format!("it goes on with generation {}", swap.generation),
            None => "it has no other to start with".to_owned(),
        };
        Some(format!(
            "the trainer refuses generation {}: {}; {instead}",
            refusal.generation, refusal.reason
        ))
    }

    /// Without checkpoints negatives grow old, so this comes before their age.
    fn unpublished(&self) -> Option<String> {
        let report = self.report()?;
        let silent = report.unpublished.is_empty() || self.run.trained();
        (!silent).then(|| {
            format!(
                "the trainer cannot publish a checkpoint and tries again: {}",
                report.unpublished
            )
        })
    }

    /// A replay whose trainer waits for something that nobody is making.
    fn unscripted(&self) -> Option<String> {
        let next = self.awaited()?;
        let waits = self.report().is_some_and(|report| report.blocked);
        let idle = self.run.open.is_none() && !self.run.trained();
        (waits && idle).then(|| {
            format!(
                "the version log mines with the checkpoint of step {}, which is not known here",
                next.checkpoint_step
            )
        })
    }

    fn stale(&self) -> Option<String> {
        if self.settings.script.is_some() {
            return None; // The log decides how old negatives become.
        }
        let refresh = &self.settings.recipe.refresh;
        let bound = refresh.max_staleness;
        let staleness = self.staleness();
        let bounded = bound > 0 && refresh.on_stale != OnStale::Off;
        (bounded && staleness > bound && !self.run.trained()).then(|| {
            let waits = self.report().is_some_and(|report| report.blocked);
            let what = if waits { "the trainer waits for fresher ones" } else { "add inferencers" };
            format!("negatives are {staleness} steps old where refresh.max_staleness allows {bound}; {what}")
        })
    }
}
