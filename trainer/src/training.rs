//! The training loop.
//!
//! Owns: what happens between two steps (swap, staleness, checkpoint, stop) and
//! what is said about each step. Refuses: waiting for anything but the loader
//! inside a step, and for anything at all between steps unless the recipe says so
//! (law 5).

use crate::checkpoint::Checkpointer;
use crate::dataset::Dataset;
use crate::feed::Feed;
use crate::loader::{Framing, Loader, Ready};
use crate::losses::Losses;
use crate::notes::Behind;
use crate::outbox::{Letter, Outbox};
use crate::pace::Pace;
use crate::schedule::LearningRate;
use crate::script::Script;
use crate::state::TrainerState;
use crate::step::Learner;
use crate::swap::{Active, Verdict, verdict};
use anyhow::{Context, Result};
use quarry_recipe::Recipe;
use quarry_service::CancellationToken;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How often a wait is looked into and how often it is said.
const LOOK: Duration = Duration::from_millis(200);
pub(crate) const SAY: Duration = Duration::from_secs(10);
/// How long the coordinator may take to hear of the last checkpoint.
const FAREWELL: Duration = Duration::from_secs(30);

/// A run in training.
pub struct Training {
    pub(crate) recipe: Recipe,
    pub(crate) runtime: Handle,
    pub(crate) stop: CancellationToken,
    pub(crate) stop_after: u64,
    /// The next step.
    pub(crate) step: u64,
    pub(crate) total: u64,
    pub(crate) rate: LearningRate,
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) framing: Framing,
    pub(crate) learner: Learner,
    pub(crate) feed: Feed,
    pub(crate) active: Active,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) loader: Option<Loader>,
    pub(crate) losses: Option<Losses>,
    pub(crate) losses_path: Option<String>,
    pub(crate) pace: Pace,
    /// The version log this run repeats.
    pub(crate) script: Option<Arc<Script>>,
    /// The step that a GPU may still be taking.
    pub(crate) behind: Option<Behind>,
    /// When a step was last noted.
    pub(crate) noted: Instant,
}

impl Training {
    /// Trains until the last step, a signal or `--stop-after-step`.
    ///
    /// # Errors
    /// A step that is not finite, or a part that failed for good.
    pub fn run(&mut self) -> Result<()> {
        self.wait_for_first()?;
        while !self.stopped() {
            let started = Instant::now();
            let swapped = self.boundary()?;
            if self.stopped() {
                break; // The wait for a fresher generation was interrupted.
            }
            let waiting = Instant::now();
            let ready = self.next_batch()?;
            let idle = waiting.elapsed();
            if swapped {
                self.say_swap(started.elapsed());
            }
            let rate = self.rate.at(self.step);
            let begun = self.learner.begin(self.step, &ready.micros, rate)?;
            let late = begun.is_late();
            let line = self.line(&ready, idle);
            let before = self.behind.replace(Behind::new(begun, line, started));
            self.step += 1;
            // The step before is read while a GPU takes this one: it never waits for us.
            self.note(before)?;
            if !late {
                self.catch_up()?;
            }
            self.checkpoint_if_due()?;
        }
        self.catch_up()
    }

    fn checkpoint_if_due(&mut self) -> Result<()> {
        if self.stopped() {
            return Ok(()); // The last one is the end's.
        }
        if let Some(script) = self.script.clone()
            && script.needs_checkpoint(self.step)
        {
            self.catch_up()?;
            return self.publish_for(&script);
        }
        if self.step.is_multiple_of(self.recipe.train.checkpoint_every) {
            self.catch_up()?;
            self.checkpointer
                .begin(&self.learner, self.state(), false)?;
        }
        Ok(())
    }

    /// Publishes the last checkpoint of this process and says good-bye.
    ///
    /// # Errors
    /// When the checkpoint cannot be published or the coordinator not be told.
    pub fn finish(mut self) -> Result<()> {
        let complete = self.step >= self.total;
        self.loader = None;
        if self.step == 0 {
            tracing::info!("stopped before the first step, so there is no checkpoint to write");
            return Ok(());
        }
        self.checkpointer
            .publish_now(&self.learner, &self.state(), complete)?;
        self.runtime.block_on(self.outbox.flush(FAREWELL))?;
        if let Some(script) = &self.script {
            self.compare_with(script)?;
        }
        let step = self.step;
        match complete {
            true => tracing::info!(step, "training is complete"),
            false => tracing::info!(step, "stopped, --resume goes on from here"),
        }
        Ok(())
    }

    /// Lets the checkpoint in flight arrive before a failed process ends: it is the
    /// one to go back to.
    pub fn abandon(mut self) {
        self.loader = None;
        let settled = self.checkpointer.settle().map(|_| ());
        let told = settled.and_then(|()| self.runtime.block_on(self.outbox.flush(FAREWELL)));
        if let Err(error) = told {
            let reason = format!("{error:#}");
            tracing::warn!(reason, "the last checkpoint may not have been announced");
        }
    }

    fn stopped(&self) -> bool {
        self.step >= self.total.min(self.stop_after) || self.stop.is_cancelled()
    }

    /// Waits for generation 0, and says so.
    fn wait_for_first(&mut self) -> Result<()> {
        if self.active.negatives().is_some() || self.stopped() || self.script.is_some() {
            return Ok(());
        }
        let started = Instant::now();
        let mut said = None;
        while !self.active.take_newer(self.step, &self.feed, &self.outbox) {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            if let Some(refusal) = self.feed.refusal() {
                let progress = self.progress(0.0, 0.0, false);
                self.outbox.post(Letter::Progress(progress));
                return Err(refusal).context("there are no negatives to start with");
            }
            if said.is_none_or(|at: Instant| at.elapsed() >= SAY) {
                said = Some(Instant::now());
                let waited_s = started.elapsed().as_secs();
                tracing::info!(waited_s, "waiting for the first generation of negatives");
            }
            self.runtime.block_on(self.feed.changed(LOOK));
        }
        let waited_s = started.elapsed().as_secs_f64();
        let generation = self.generation();
        tracing::info!(
            generation,
            waited_s,
            "the first generation is here, training begins"
        );
        Ok(())
    }

    /// What is decided between two steps. True if the generation changed.
    fn boundary(&mut self) -> Result<bool> {
        let mut swapped = match self.script.clone() {
            Some(script) => return self.follow(&script).inspect(|s| self.forget_batches(*s)),
            None => self.active.take_newer(self.step, &self.feed, &self.outbox),
        };
        match verdict(&self.recipe.refresh, self.staleness()) {
            Verdict::Fresh => {}
            Verdict::Stale => {
                let bound = self.recipe.refresh.max_staleness;
                self.active.warn_of_staleness(self.step, bound);
            }
            Verdict::Wait => swapped |= self.wait_for_fresher()?,
        }
        self.forget_batches(swapped);
        Ok(swapped)
    }

    /// Batches made ahead hold the negatives of the generation before.
    fn forget_batches(&mut self, swapped: bool) {
        if swapped {
            self.loader = None;
        }
    }

    /// Blocks until the negatives are within `max_staleness`; law 5 wants it said.
    fn wait_for_fresher(&mut self) -> Result<bool> {
        self.catch_up()?;
        let started = Instant::now();
        let (mut swapped, mut said) = (false, None);
        while verdict(&self.recipe.refresh, self.staleness()) == Verdict::Wait {
            if self.stop.is_cancelled() {
                return Ok(swapped);
            }
            if said.is_none_or(|at: Instant| at.elapsed() >= SAY) {
                said = Some(Instant::now());
                tracing::warn!(
                    step = self.step,
                    generation = self.generation(),
                    staleness = self.staleness(),
                    max_staleness = self.recipe.refresh.max_staleness,
                    waited_s = started.elapsed().as_secs(),
                    "training waits for fresher negatives"
                );
                self.offer_checkpoint()?;
            }
            self.outbox.progress(self.progress(0.0, 0.0, true));
            self.runtime.block_on(self.feed.changed(LOOK));
            swapped |= self.active.take_newer(self.step, &self.feed, &self.outbox);
        }
        let waited_s = started.elapsed().as_secs_f64();
        let generation = self.generation();
        tracing::warn!(
            step = self.step,
            generation,
            waited_s,
            "fresher negatives are here, training goes on"
        );
        Ok(swapped)
    }

    /// Publishes the present weights unless they are: a generation can only come
    /// from a checkpoint, and one from every earlier checkpoint may have been given
    /// up or refused.
    fn offer_checkpoint(&mut self) -> Result<()> {
        self.checkpointer.settle()?;
        let newest = self.checkpointer.published().map(|newest| newest.step);
        if newest.is_none_or(|step| step < self.step) {
            let step = self.step;
            tracing::info!(
                step,
                "publishing the present weights, for fresher negatives to be mined with"
            );
            self.checkpointer
                .begin(&self.learner, self.state(), false)?;
        }
        Ok(())
    }

    fn next_batch(&mut self) -> Result<Ready> {
        if self.loader.is_none() {
            let negatives = self.active.negatives().context("no generation is active")?;
            self.loader = Some(Loader::start(
                &self.recipe,
                Arc::clone(&self.dataset),
                Arc::clone(negatives),
                self.framing,
                self.step..self.total,
            )?);
        }
        self.loader
            .as_ref()
            .context("the loader did not start")?
            .next()
    }

    fn say_swap(&self, cost: Duration) {
        tracing::info!(
            step = self.step,
            generation = self.generation(),
            staleness = self.staleness(),
            swap_ms = cost.as_secs_f64() * 1e3,
            "switched negatives"
        );
    }

    pub(crate) fn state(&self) -> TrainerState {
        let queries = self.dataset.queries();
        let mut state = TrainerState::new(&self.recipe, self.step, self.total, queries);
        state.active = self.active.negatives().map(|n| n.activation().clone());
        state.swaps = self.active.swaps().to_vec();
        state.losses = self.losses_path.clone();
        state
    }

    pub(crate) fn generation(&self) -> u64 {
        self.active
            .negatives()
            .map_or(0, |n| n.activation().generation)
    }

    pub(crate) fn staleness(&self) -> u64 {
        self.active
            .negatives()
            .map_or(0, |n| n.activation().staleness(self.step))
    }
}
