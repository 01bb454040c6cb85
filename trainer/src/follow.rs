//! The boundary between two steps of a run that repeats a version log.
//!
//! Owns: the waits of a replay, which law 5 does not forbid: it has no other way to
//! the log's negatives. Refuses: any choice; the log has made them all.

use crate::script::Script;
use crate::training::{SAY, Training};
use anyhow::Result;
use std::sync::Arc;
use std::time::Instant;

impl Training {
    /// Switches if the log switches at this step. True if the generation changed.
    pub(crate) fn follow(&mut self, script: &Script) -> Result<bool> {
        let Some(number) = script.activation_at(self.step) else {
            return Ok(false);
        };
        if self.active.activation() == number && self.active.negatives().is_some() {
            return Ok(false);
        }
        self.catch_up()?;
        let started = Instant::now();
        let runtime = self.runtime.clone();
        let negatives = runtime.block_on(async {
            let mut wanted = std::pin::pin!(script.negatives(number));
            loop {
                tokio::select! {
                    negatives = &mut wanted => return negatives.map(Some),
                    () = self.stop.cancelled() => return Ok(None),
                    () = tokio::time::sleep(SAY) => self.say_wait(started),
                }
            }
        })?;
        let Some(negatives) = negatives else {
            return Ok(false); // The wait was interrupted.
        };
        let step = script.step_of(number);
        self.active
            .activate(step, Arc::new(negatives), &self.outbox);
        Ok(true)
    }

    fn say_wait(&self, started: Instant) {
        let (step, waited_s) = (self.step, started.elapsed().as_secs());
        tracing::info!(step, waited_s, "waiting for the version log's negatives");
        self.outbox.progress(self.progress(0.0, 0.0, true));
    }

    /// Publishes the checkpoint that the log mines with, now and certainly, and
    /// compares it with the log's.
    pub(crate) fn publish_for(&mut self, script: &Script) -> Result<()> {
        let state = self.state();
        self.checkpointer
            .publish_now(&self.learner, &state, false)?;
        self.compare_with(script)
    }

    /// Compares the newest checkpoint with the log's.
    pub(crate) fn compare_with(&self, script: &Script) -> Result<()> {
        match self.checkpointer.published() {
            Some(checkpoint) => script.check(checkpoint),
            None => Ok(()),
        }
    }
}
