//! A trainer: takes steps, publishes checkpoints, follows activations, resumes.
//!
//! Behaves as the real one does (`trainer/src/training.rs`, `swap.rs`, `outbox.rs`,
//! `resume.rs`). Its weights are a hash over every step and the negatives it used.

use crate::checkpoints::{self, Position};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::feed::{Feed, Negatives};
use crate::network::Link;
use crate::outbox::{Letter, Outbox};
use crate::process::Process;
use crate::scenario::Scenario;
use crate::world::{World, lock};
use quarry_artifacts::{ArtifactError, CheckpointRef, Digest, Store};
use quarry_proto::v1;
use quarry_recipe::{OnStale, Recipe};
use std::sync::{Arc, Mutex};

/// One trainer process.
pub struct Trainer {
    link: Link,
    store: Store,
    recipe: Recipe,
    /// Steps of the whole run.
    steps: u64,
    initial: CheckpointRef,
    feed: Feed,
    outbox: Outbox,
    /// Why the latest checkpoint could not be published; empty if it could.
    unpublished: Mutex<String>,
}

/// The weights after `step`, which used `negatives`.
pub fn learn(weights: &Digest, step: u64, negatives: &Digest) -> Digest {
    Digest::of(format!("{weights} {step} {negatives}").as_bytes())
}

impl Trainer {
    pub fn new(cluster: &Arc<Cluster>, process: &Arc<Process>, scenario: &Scenario) -> Self {
        let store = Client::open(&cluster.world, process, &cluster.site);
        Self {
            link: Link::new(cluster, process),
            store: store.clone(),
            recipe: scenario.recipe.clone(),
            steps: scenario.steps,
            initial: cluster.run.initial_checkpoint.clone(),
            feed: Feed::new(Link::new(cluster, process), store),
            outbox: Outbox::new(Link::new(cluster, process)),
            unpublished: Mutex::default(),
        }
    }

    /// Trains to the end; true then, false if it has to be started again.
    pub async fn run(self) -> bool {
        let resumed = match checkpoints::newest(&self.store).await {
            Ok(found) => found,
            Err(error) => return self.stumble(&error),
        };
        let mut position = resumed.unwrap_or_else(|| Position::start(&self.initial));
        if let Err(error) = self.take_up(&mut position).await {
            return self.stumble(&error);
        }
        let after = position
            .active
            .as_ref()
            .map_or(0, |active| active.activation);
        self.world().note(format_args!(
            "trainer begins at step {} after activation {after}",
            position.step
        ));
        tokio::select! {
            biased;
            done = self.train(position) => done,
            () = self.outbox.deliver() => false,
            () = self.feed.follow(after) => false,
        }
    }

    /// A number of this process alone: that of its life.
    fn session(&self) -> Option<u64> {
        let (_, life) = self.link.process.name.rsplit_once('.')?;
        life.parse().ok()
    }

    fn world(&self) -> &Arc<World> {
        self.link.world()
    }

    fn stumble(&self, error: &ArtifactError) -> bool {
        self.world()
            .note(format_args!("trainer cannot begin: {error}"));
        false
    }

    /// Activates the generation of the checkpoint again; if it is gone, the newest
    /// will do.
    async fn take_up(&self, position: &mut Position) -> Result<(), ArtifactError> {
        let Some(activation) = position.active.take() else {
            return Ok(());
        };
        match self.feed.fetch(activation).await {
            Ok(negatives) => self.activate(position, negatives),
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => self
                .world()
                .note(format_args!("trainer goes on with the newest: {error}")),
        }
        Ok(())
    }

    fn activate(&self, position: &mut Position, negatives: Negatives) {
        let step = position.step;
        position.swaps.retain(|(at, ..)| *at < step);
        if position.swaps.last().map(|(_, generation)| *generation) != Some(negatives.generation) {
            position.swaps.push((step, negatives.generation));
        }
        self.outbox.post(Letter::Swap(v1::ReportSwapRequest {
            step,
            activation: negatives.activation,
            generation: negatives.generation,
            checkpoint_digest: negatives.checkpoint.digest.to_string(),
            session: self.session(),
        }));
        self.world().note(format_args!(
            "trainer uses generation {} from step {step} on",
            negatives.generation
        ));
        position.active = Some(negatives);
    }

    async fn train(&self, mut position: Position) -> bool {
        let mut published = 0;
        while position.step < self.steps {
            self.boundary(&mut position, &mut published).await;
            let Some(active) = &position.active else {
                self.link.process.sleep(200).await; // for generation 0
                continue;
            };
            position.weights = learn(&position.weights, position.step, &active.digest);
            position.step += 1;
            self.link.process.sleep(self.world().between(60..240)).await;
            if position.step.is_multiple_of(5) {
                self.report(&position, false).await;
            }
            if position
                .step
                .is_multiple_of(self.recipe.train.checkpoint_every)
                && position.step < self.steps
            {
                self.publish(&position, &mut published, false).await;
            }
        }
        // The last one must not be left out: the real trainer gives up, and its user
        // resumes it.
        if !self.publish(&position, &mut published, true).await {
            return false;
        }
        while !self.outbox.is_empty() {
            self.link.process.sleep(200).await;
        }
        !self.outbox.was_refused()
    }

    /// What is decided between two steps.
    async fn boundary(&self, position: &mut Position, published: &mut u64) {
        loop {
            let after = position
                .active
                .as_ref()
                .map_or(0, |active| active.activation);
            if let Some(negatives) = self.feed.newer(after) {
                self.activate(position, negatives);
            }
            let refresh = &self.recipe.refresh;
            let Some(active) = &position.active else {
                return;
            };
            let staleness = position.step - active.checkpoint.step.min(position.step);
            let waits = refresh.on_stale == OnStale::Block && staleness > refresh.max_staleness;
            if !waits || refresh.max_staleness == 0 {
                return;
            }
            // A refused one came short; publishing it again puts back what is missing.
            let refused = self.outbox.is_empty() && self.outbox.was_refused();
            if *published < position.step || refused {
                self.publish(position, published, false).await;
            }
            self.report(position, true).await;
            self.link.process.sleep(200).await;
        }
    }

    async fn publish(&self, position: &Position, published: &mut u64, last: bool) -> bool {
        match checkpoints::publish(&self.store, position).await {
            Ok(checkpoint) => {
                *published = position.step;
                lock(&self.unpublished).clear();
                self.outbox
                    .post(Letter::Checkpoint(v1::PublishCheckpointRequest {
                        checkpoint: Some(checkpoint.into()),
                        r#final: last,
                    }));
                true
            }
            Err(error) => {
                let step = position.step;
                self.world()
                    .note(format_args!("no checkpoint of step {step}: {error}"));
                *lock(&self.unpublished) = error.to_string();
                false
            }
        }
    }

    async fn report(&self, position: &Position, blocked: bool) {
        let request = v1::ReportProgressRequest {
            step: position.step,
            total_steps: self.steps,
            generation: position
                .active
                .as_ref()
                .map_or(0, |active| active.generation),
            blocked,
            unpublished: lock(&self.unpublished).clone(),
            ..v1::ReportProgressRequest::default()
        };
        // It may be lost, and no step waits for it.
        let limit = std::time::Duration::from_millis(50);
        let _ = tokio::time::timeout(limit, self.link.report_progress(request)).await;
    }
}
