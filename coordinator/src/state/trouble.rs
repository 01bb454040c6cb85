//! What people should know now: one sentence, the gravest thing first.

use super::State;
use super::event::Timestamp;
use super::publication::Publishing;
use super::run::AbortedGeneration;
use quarry_recipe::OnStale;

/// Silence after which a worker or the trainer is missed, in milliseconds.
const SILENCE_MS: u64 = 60_000;
/// Lost attempts at one task after which it is suspected of killing workers.
const SUSPICIOUS_LOSSES: usize = 2;
/// Leases handed back in a row, beyond which nothing seems to get done.
const MANY_RETURNS: u32 = 5;

impl State {
    /// What is wrong, and what to do about it; empty when all is well.
    #[must_use]
    pub fn trouble(&self, now: Timestamp) -> String {
        self.store_trouble()
            .or_else(|| self.task_trouble())
            .or_else(|| self.fleet_trouble(now))
            .or_else(|| self.returns_trouble())
            .or_else(|| self.given_up())
            .or_else(|| self.trainer_trouble(now))
            .or_else(|| self.refused())
            .or_else(|| self.unpublished())
            .or_else(|| self.unscripted())
            .or_else(|| self.stale(now))
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

    /// One loss is no trouble yet: workers come and go.
    fn task_trouble(&self) -> Option<String> {
        let board = self.board.as_ref()?;
        let grave = |task: &u32| {
            let mut failures = board.failures_of(*task);
            let losses = failures.clone().count();
            losses >= SUSPICIOUS_LOSSES || failures.any(|f| f.reason.is_some())
        };
        let tasks = board.failures.iter().map(|f| f.task);
        Some(board.account_of(tasks.filter(grave).min()?))
    }

    /// Milliseconds for which nobody has called to do what is to be done; `None`
    /// while a worker is known to live, or nothing is to be done by one.
    fn silence(&self, now: Timestamp) -> Option<u64> {
        let (open, board) = (self.run.open.as_ref()?, self.board.as_ref()?);
        let dead = self.fleet.seen.is_empty() && (open.done.len() as u32) < board.plan.len();
        let silence = now.since(self.fleet.last_contact);
        (dead && silence > self.settings.lease_ms()).then_some(silence)
    }

    fn fleet_trouble(&self, now: Timestamp) -> Option<String> {
        let open = self.run.open.as_ref()?;
        let silence = self.silence(now).filter(|ms| *ms >= SILENCE_MS)?;
        let too = if self.trainer_waits() {
            ", and the trainer with it"
        } else {
            ""
        };
        Some(format!(
            "no inferencer has asked for work for {} s: generation {} waits{too}; start one with quarry-inferencer",
            silence / 1000,
            open.generation
        ))
    }

    /// Workers that cannot reach the store, say, blame no task for it.
    fn returns_trouble(&self) -> Option<String> {
        let (count, reason) = &self.board.as_ref()?.returns;
        (*count > MANY_RETURNS)
            .then(|| format!("{count} tasks in a row were handed back undone, at last by {reason}"))
    }

    /// The latest generation, if it was given up and none was published since.
    fn last_given_up(&self) -> Option<(u64, &AbortedGeneration)> {
        let (generation, aborted) = self.run.aborted.last_key_value()?;
        let published = self.run.published.last_key_value();
        let newer = published.is_some_and(|(newest, _)| newest > generation);
        (!newer && aborted.epoch == self.run.epoch).then_some((*generation, aborted))
    }

    fn given_up(&self) -> Option<String> {
        let (generation, aborted) = self.last_given_up()?;
        if self.run.open.is_some() || self.run.trained() {
            return None;
        }
        // Who waits makes no checkpoints, once the one it stands at is known.
        let advice = if self.trainer_waits() {
            "the trainer waits: remove the cause and restart the coordinator"
        } else {
            "remove the cause and restart the coordinator, or wait for the next checkpoint"
        };
        let reason = &aborted.reason;
        Some(format!(
            "generation {generation} was given up: {reason}; {advice}"
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
        let idle = self.run.open.is_none() && !self.run.trained();
        (self.trainer_waits() && idle).then(|| {
            format!(
                "the version log mines with the checkpoint of step {}, which is not known here",
                next.checkpoint_step
            )
        })
    }

    fn stale(&self, now: Timestamp) -> Option<String> {
        if self.settings.script.is_some() {
            return None; // The log decides how old negatives become.
        }
        let refresh = &self.settings.recipe.refresh;
        let bound = refresh.max_staleness;
        let staleness = self.staleness();
        let bounded = bound > 0 && refresh.on_stale != OnStale::Off;
        (bounded && staleness > bound && !self.run.trained()).then(|| {
            let why = self.why_stale(now);
            format!("negatives are {staleness} steps old where refresh.max_staleness allows {bound}; {why}")
        })
    }

    /// What keeps fresher negatives away, or who wants them.
    fn why_stale(&self, now: Timestamp) -> String {
        if let Some(ms) = self.silence(now) {
            let seconds = ms / 1000;
            return format!(
                "no inferencer has asked for work for {seconds} s, so start one with quarry-inferencer"
            );
        }
        if let Some((generation, aborted)) = self.last_given_up() {
            return format!("generation {generation} was given up: {}", aborted.reason);
        }
        let why = if self.run.paused && self.run.open.is_none() {
            "refreshing is paused"
        } else if self.trainer_waits() {
            "the trainer waits for fresher ones"
        } else {
            "add inferencers"
        };
        why.to_owned()
    }
}
