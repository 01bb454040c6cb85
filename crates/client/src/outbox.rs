//! What the coordinator must hear, delivered behind the trainer's back.
//!
//! Owns: an ordered queue of letters, each repeated until it is answered, and the
//! latest progress, which may be lost. Refuses: making a step
//! wait (law 5).

use crate::Activation;
use crate::trainer::{Link, plain};
use anyhow::{Result, bail};
use quarry_artifacts::CheckpointRef;
use quarry_proto::v1::ReportProgressRequest;
use quarry_service::patience::until_answered;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

/// Least time between two reports of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// One line for the coordinator.
#[derive(Debug)]
pub enum Letter {
    /// The first step that uses a generation.
    Swap {
        /// The step.
        step: u64,
        /// The generation's activation.
        activation: Activation,
    },
    /// A complete checkpoint.
    Checkpoint {
        /// It.
        checkpoint: CheckpointRef,
        /// Whether the run is over.
        last: bool,
    },
    /// Where the trainer is, where that must not be lost: it is about to give up.
    Progress(ReportProgressRequest),
}

enum Item {
    Letter(Letter),
    /// Answered when everything before it has been delivered or refused, with the
    /// refusal of the newest checkpoint.
    Flush(oneshot::Sender<Option<String>>),
}

/// Delivers letters in order.
pub struct Outbox {
    letters: mpsc::UnboundedSender<Item>,
    progress: watch::Sender<ReportProgressRequest>,
}

impl Outbox {
    /// Starts the background delivery.
    #[must_use]
    pub fn start(runtime: &Handle, link: Link) -> Self {
        let (letters, queue) = mpsc::unbounded_channel();
        let (progress, latest) = watch::channel(ReportProgressRequest::default());
        runtime.spawn(deliver_all(link.clone(), queue));
        runtime.spawn(report_progress(link, latest));
        Self { letters, progress }
    }

    /// Queues a letter.
    pub fn post(&self, letter: Letter) {
        // The task ends only with the outbox.
        let _ = self.letters.send(Item::Letter(letter));
    }

    /// Replaces the progress to be reported next.
    pub fn progress(&self, progress: ReportProgressRequest) {
        self.progress.send_replace(progress);
    }

    /// Waits until every letter is delivered, at most `patience`.
    ///
    /// # Errors
    /// That the newest checkpoint was refused, or that the coordinator stayed away.
    pub async fn flush(&self, patience: Duration) -> Result<()> {
        let (done, answered) = oneshot::channel();
        let _ = self.letters.send(Item::Flush(done));
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(reason))) => bail!(
                "the coordinator refused the last checkpoint, which is in the store: {reason}"
            ),
            Ok(Err(_)) | Err(_) => bail!(
                "the coordinator stayed away for {} s and has not heard of the last checkpoint; start it, then run the trainer again with --resume",
                patience.as_secs()
            ),
        }
    }
}

async fn deliver_all(link: Link, mut queue: mpsc::UnboundedReceiver<Item>) {
    let mut refused = None;
    while let Some(item) = queue.recv().await {
        match item {
            Item::Letter(letter) => {
                let refusal = deliver(&link, &letter)
                    .await
                    .err()
                    .map(|s| plain(&s).to_string());
                if let Some(reason) = &refusal {
                    tracing::error!(?letter, reason, "the coordinator refused a report");
                }
                if matches!(letter, Letter::Checkpoint { .. }) {
                    refused = refusal;
                }
            }
            Item::Flush(done) => {
                let _ = done.send(refused.take());
            }
        }
    }
}

/// Repeats one letter until the coordinator answers.
async fn deliver(link: &Link, letter: &Letter) -> Result<(), Status> {
    let attempt = async || match letter {
        Letter::Swap { step, activation } => link.report_swap(*step, activation).await,
        Letter::Checkpoint { checkpoint, last } => link.publish_checkpoint(checkpoint, *last).await,
        Letter::Progress(progress) => link.report_progress(progress.clone()).await,
    };
    // The feed says that the coordinator is away.
    until_answered(attempt, |_| {}).await
}

async fn report_progress(link: Link, mut latest: watch::Receiver<ReportProgressRequest>) {
    while latest.changed().await.is_ok() {
        let progress = latest.borrow_and_update().clone();
        if let Err(status) = link.report_progress(progress).await {
            tracing::debug!(reason = status.message(), "progress was not reported");
        }
        tokio::time::sleep(PROGRESS_EVERY).await;
    }
}
