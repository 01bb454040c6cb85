//! The coordinator as a trainer sees it: announce, report, listen.
//!
//! Owns: deadlines of calls, patience with an absent coordinator, conversion to
//! domain types. Refuses: deciding what to do with an answer, and bulk data.

use crate::{Activation, Client, DEADLINE};
use anyhow::{Context, Result};
use quarry_artifacts::CheckpointRef;
use quarry_proto::{MAX_MESSAGE_BYTES, v1};
use quarry_service::ServiceChannel;
use quarry_service::patience::within;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tonic::{Status, Streaming};

pub use crate::activation::activation;
pub use quarry_service::patience::{is_absence, new_backoff};

/// The trainer's connection to the coordinator; clones share the channel. One to a
/// process: the swaps reported over it only go forward.
#[derive(Clone)]
pub struct Link {
    session: u64,
    channel: ServiceChannel,
    client: Client,
}

impl Link {
    /// A link over `channel`.
    #[must_use]
    pub fn new(channel: ServiceChannel) -> Self {
        let client = Client::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        // Seeded by the operating system; differs at each start.
        let session = RandomState::new().hash_one(std::process::id());
        Self {
            session,
            channel,
            client,
        }
    }

    /// Ends when calls begin to go to another coordinator.
    pub(crate) fn turned(&self) -> impl Future<Output = ()> + Send + use<> {
        self.channel.turned()
    }

    /// Waits until the coordinator answers, at most `patience`.
    ///
    /// # Errors
    /// Its refusal, or its absence.
    pub async fn greet(&self, patience: Duration) -> Result<()> {
        let started = tokio::time::Instant::now();
        let mut backoff = new_backoff();
        loop {
            let mut client = self.client.clone();
            let answer = within(DEADLINE, async move {
                client.get_run(v1::GetRunRequest {}).await
            })
            .await;
            match answer {
                Ok(_) => return Ok(()),
                Err(status) if is_absence(&status) && started.elapsed() < patience => {
                    tokio::time::sleep(backoff.next_pause()).await;
                }
                Err(status) => {
                    return Err(plain(&status)).with_context(|| {
                        format!(
                            "the coordinator did not answer within {} s; check --coordinator and that it runs",
                            patience.as_secs()
                        )
                    });
                }
            }
        }
    }

    /// Announces a complete checkpoint.
    ///
    /// # Errors
    /// The failure of the call or the coordinator's refusal.
    pub async fn publish_checkpoint(
        &self,
        checkpoint: &CheckpointRef,
        last: bool,
    ) -> Result<(), Status> {
        let mut client = self.client.clone();
        let request = v1::PublishCheckpointRequest {
            checkpoint: Some(checkpoint.clone().into()),
            r#final: last,
        };
        within(
            DEADLINE,
            async move { client.publish_checkpoint(request).await },
        )
        .await
        .map(|_| ())
    }

    /// Reports the first step that uses a generation.
    ///
    /// # Errors
    /// The failure of the call or the coordinator's refusal.
    pub async fn report_swap(&self, step: u64, activation: &Activation) -> Result<(), Status> {
        let mut client = self.client.clone();
        let request = v1::ReportSwapRequest {
            step,
            activation: activation.activation,
            generation: activation.generation,
            checkpoint_digest: activation.checkpoint.digest.to_string(),
            session: Some(self.session),
        };
        within(DEADLINE, async move { client.report_swap(request).await })
            .await
            .map(|_| ())
    }

    /// Says where the trainer is.
    ///
    /// # Errors
    /// The failure of the call.
    pub async fn report_progress(&self, progress: v1::ReportProgressRequest) -> Result<(), Status> {
        let mut client = self.client.clone();
        within(
            DEADLINE,
            async move { client.report_progress(progress).await },
        )
        .await
        .map(|_| ())
    }

    /// Every published generation.
    ///
    /// # Errors
    /// The failure of the call.
    pub async fn generations(&self) -> Result<Vec<v1::GenerationSummary>, Status> {
        let mut client = self.client.clone();
        let request = v1::ListGenerationsRequest {};
        let list = within(
            DEADLINE,
            async move { client.list_generations(request).await },
        )
        .await?;
        Ok(list.generations)
    }

    /// Activations after number `after`, as they happen.
    ///
    /// # Errors
    /// The failure of the call or the coordinator's refusal.
    pub async fn watch(&self, after: u64) -> Result<Activations, Status> {
        let mut client = self.client.clone();
        let request = v1::WatchGenerationsRequest {
            after_activation: after,
        };
        let stream = within(
            DEADLINE,
            async move { client.watch_generations(request).await },
        )
        .await?;
        Ok(Activations(stream))
    }
}

/// The stream of activations.
pub struct Activations(Streaming<v1::WatchGenerationsResponse>);

impl Activations {
    /// The next activation; `None` when the coordinator closed the stream.
    ///
    /// # Errors
    /// A broken connection or a message that means nothing.
    pub async fn next(&mut self) -> Result<Option<Activation>, Status> {
        let Some(wire) = self.0.message().await? else {
            return Ok(None);
        };
        let of = (wire.activation, wire.generation);
        activation(of, wire.checkpoint, wire.manifest).map(Some)
    }
}

/// A status as one sentence, without its debug form.
#[must_use]
pub fn plain(status: &Status) -> anyhow::Error {
    anyhow::anyhow!("{}: {}", status.code(), status.message())
}
