//! Following a version log: the run switches at the log's steps, to generations of
//! the log's checkpoints, and nowhere else.
//!
//! Owns: finding the generation a swap of the log stands for, and the comparison of
//! this run's weights with the log's. Refuses: the recipe's refresh policy, which
//! rests during a replay, and going on with other weights than the log's.

use crate::feed::Source;
use crate::link::{Link, activation, is_absence, new_backoff, plain};
use crate::negatives::{Activation, Negatives};
use anyhow::{Context, Result, ensure};
use quarry_artifacts::{CheckpointRef, Digest, VersionLog, VersionSwap, layout};
use quarry_proto::v1::GenerationSummary;
use tonic::Status;

/// The log of a run that is repeated.
pub struct Script {
    log: VersionLog,
    link: Link,
    source: Source,
}

impl Script {
    /// A script after `log`, with generations from `link` and `source`.
    #[must_use]
    pub fn new(log: VersionLog, link: Link, source: Source) -> Self {
        Self { log, link, source }
    }

    /// Number of the activation that `step` follows, from 1.
    #[must_use]
    pub fn activation_at(&self, step: u64) -> Option<u64> {
        self.log.at(step).map(|(index, _)| index as u64 + 1)
    }

    /// First step that follows activation `number`.
    #[must_use]
    pub fn step_of(&self, number: u64) -> u64 {
        self.swap(number).map_or(0, |swap| swap.step)
    }

    /// Whether a generation will be mined with the checkpoint of `step`.
    #[must_use]
    pub fn needs_checkpoint(&self, step: u64) -> bool {
        self.log.needs_checkpoint(step)
    }

    /// The negatives of activation `number`, as soon as the coordinator has made
    /// them active.
    ///
    /// # Errors
    /// A refusal by the coordinator, a checkpoint or generation that can no longer
    /// be had, or negatives that cannot be used.
    pub async fn negatives(&self, number: u64) -> Result<Negatives> {
        let swap = self
            .swap(number)
            .with_context(|| format!("the version log has no swap {number}"))?;
        let mut backoff = new_backoff();
        loop {
            match self.activated(number, swap).await {
                Ok(activation) => match self.source.negatives(activation).await {
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(%error, "cannot fetch the generation, trying again");
                    }
                    outcome => return Ok(outcome?),
                },
                Err(error) => match error.downcast_ref::<Status>() {
                    Some(status) if is_absence(status) => {
                        tracing::debug!(reason = status.message(), "the coordinator is away");
                    }
                    Some(status) => return Err(plain(status)).context("the coordinator refused"),
                    None => return Err(error),
                },
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    /// The generation that swap `number` stands for, once it is or has been active.
    async fn activated(&self, number: u64, swap: &VersionSwap) -> Result<Activation> {
        if self.find(swap).await?.is_none() {
            self.announce(swap).await?;
        }
        // The stream may tell of later activations only; this one came before them.
        let mut stream = self.link.watch(number - 1).await?;
        let away = || Status::unavailable("the coordinator closed the stream");
        stream.next().await?.ok_or_else(away)?;
        let found = self.find(swap).await?.with_context(|| {
            format!(
                "the generation of step {} that the version log uses from step {} on is deleted; replay into a new store",
                swap.checkpoint_step, swap.step
            )
        })?;
        let of = (number, found.generation);
        Ok(activation(of, found.checkpoint, found.manifest)?)
    }

    async fn find(&self, swap: &VersionSwap) -> Result<Option<GenerationSummary>, Status> {
        let generations = self.link.generations().await?;
        Ok(generations.into_iter().find(|g| stands_for(g, swap)))
    }

    /// Tells the coordinator of the checkpoint to mine with, in case the process
    /// that published it died before it could. Telling it again changes nothing.
    async fn announce(&self, swap: &VersionSwap) -> Result<()> {
        let checkpoint = CheckpointRef {
            step: swap.checkpoint_step,
            digest: swap.checkpoint.clone(),
            manifest: layout::checkpoint_manifest(swap.checkpoint_step, &swap.checkpoint),
        };
        ensure!(
            self.source
                .store
                .head(&checkpoint.manifest)
                .await?
                .is_some(),
            "the store has no {}, with which the version log mines from step {} on; replay into a new store",
            checkpoint.manifest,
            swap.step
        );
        Ok(self.link.publish_checkpoint(&checkpoint, false).await?)
    }

    /// Refuses weights that are not the ones of the log: this machine, build or
    /// number of threads computes other bits.
    ///
    /// # Errors
    /// If `checkpoint` differs from what the log says of its step.
    pub fn check(&self, checkpoint: &CheckpointRef) -> Result<()> {
        let log = &self.log;
        let ends = (checkpoint.step == log.steps).then_some(&log.model);
        let mut stems = log.swaps.iter();
        let stem = stems.find(|swap| swap.checkpoint_step == checkpoint.step);
        for expected in ends.into_iter().chain(stem.map(|swap| &swap.checkpoint)) {
            ensure!(
                checkpoint.digest == *expected,
                "the weights after step {} are {} where the version log has {}; replay on the same kind of machine, with the same build and threads",
                checkpoint.step,
                checkpoint.digest.short(),
                Digest::short(expected)
            );
        }
        Ok(())
    }

    fn swap(&self, number: u64) -> Option<&VersionSwap> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        self.log.swaps.get(index)
    }
}

fn stands_for(generation: &GenerationSummary, swap: &VersionSwap) -> bool {
    let stem = generation.checkpoint.as_ref();
    !generation.retired
        && generation.kind == swap.kind.to_string()
        && stem.is_some_and(|stem| {
            stem.step == swap.checkpoint_step && stem.digest == swap.checkpoint.as_str()
        })
}
