//! What is said about each step, once it has been taken.
//!
//! Owns: the step whose report is still to come, its line for `--losses` and its progress
//! for the coordinator. Refuses: anything that a step or the next one depends on.

use crate::guard::Begun;
use crate::loader::Ready;
use crate::losses::StepLine;
use crate::training::Training;
use anyhow::Result;
use quarry_proto::v1::ReportProgressRequest;
use std::time::{Duration, Instant};

/// A step that was begun, and what there is to say about it already.
pub(crate) struct Behind {
    begun: Begun,
    /// Without loss, norm and duration.
    line: StepLine,
    started: Instant,
}

impl Behind {
    pub(crate) fn new(begun: Begun, line: StepLine, started: Instant) -> Self {
        Self {
            begun,
            line,
            started,
        }
    }
}

impl Training {
    /// Reads the report of the newest step. To be done before its weights are used.
    pub(crate) fn catch_up(&mut self) -> Result<()> {
        let newest = self.behind.take();
        self.note(newest)
    }

    /// What is known of the present step before it is taken.
    pub(crate) fn line(&self, ready: &Ready, idle: Duration) -> StepLine {
        StepLine {
            step: self.step,
            loss: 0.0,
            lr: self.rate.at(self.step),
            grad_norm: 0.0,
            pairs_per_second: 0.0,
            step_ms: 0.0,
            generation: self.generation(),
            staleness: self.staleness(),
            masked_fraction: 0.0,
            short: ready.short,
            idle_ms: idle.as_secs_f64() * 1e3,
        }
    }

    /// Says what a step did, once it has done it.
    pub(crate) fn note(&mut self, step: Option<Behind>) -> Result<()> {
        let Some(Behind {
            begun,
            mut line,
            started,
        }) = step
        else {
            return Ok(());
        };
        let report = begun.finish()?;
        // Steps that overlap last from report to report.
        let lasted = started.max(self.noted).elapsed().as_secs_f64();
        self.noted = Instant::now();
        line.loss = report.loss;
        line.grad_norm = report.grad_norm;
        line.masked_fraction = report.masked_fraction;
        line.step_ms = lasted * 1e3;
        line.pairs_per_second = self.recipe.train.batch_size as f64 / lasted;
        if !report.updated {
            tracing::warn!(
                step = line.step,
                "no negative was left to contrast, so the weights stay as they are"
            );
        }
        self.pace.note(&line);
        if let Some(losses) = &mut self.losses {
            losses.append(&line);
        }
        let mut progress = self.progress(line.loss, line.pairs_per_second, false);
        (progress.step, progress.generation) = (line.step + 1, line.generation);
        self.outbox.progress(progress);
        Ok(())
    }

    pub(crate) fn progress(
        &self,
        loss: f64,
        pairs_per_second: f64,
        blocked: bool,
    ) -> ReportProgressRequest {
        ReportProgressRequest {
            step: self.step,
            total_steps: self.total,
            loss,
            pairs_per_second,
            generation: self.generation(),
            blocked,
            refusal: self.feed.refusal().map(Into::into),
            unpublished: self.checkpointer.failure(),
        }
    }
}
