//! The newest usable generation, ready before a step asks for it.
//!
//! Owns: the background download of the negatives that `quarry_client::follow` hears
//! of. The training loop only looks at a slot: no step waits for the network (law 5).
//! Refuses: generations that do not fit.

use crate::dataset::Dataset;
use crate::link::{Link, new_backoff};
use crate::negatives::{Activation, Negatives, NegativesError};
use quarry_artifacts::{Cache, Store};
use quarry_client::follow;
use quarry_proto::v1;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where a generation's files come from and what they must fit.
#[derive(Clone)]
pub struct Source {
    /// The store.
    pub store: Store,
    /// The local cache.
    pub cache: Cache,
    /// The data set of the run.
    pub dataset: Arc<Dataset>,
    /// Negatives that a batch draws for each query.
    pub drawn: usize,
    /// Whether a query has nothing but these to be contrasted with.
    pub contrasts_own: bool,
}

impl Source {
    /// Fetches one generation.
    ///
    /// # Errors
    /// [`NegativesError`].
    pub async fn negatives(&self, activation: Activation) -> Result<Negatives, NegativesError> {
        let negatives =
            Negatives::fetch(&self.store, &self.cache, activation, &self.dataset).await?;
        if self.contrasts_own {
            tokio::task::block_in_place(|| negatives.require_some())?;
        }
        Ok(negatives)
    }
}

/// A generation that cannot be trained on, now or later (law 8).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("generation {generation} is refused: {reason}")]
pub struct Refusal {
    /// Activation that made it known.
    pub activation: u64,
    /// The generation.
    pub generation: u64,
    /// What is wrong with it.
    pub reason: String,
    /// Whether it does not fit the run, which no repair of the store would change.
    pub lasting: bool,
}

impl Refusal {
    fn new(activation: &Activation, error: NegativesError) -> Self {
        Self {
            activation: activation.activation,
            generation: activation.generation,
            lasting: matches!(error, NegativesError::Unfit { .. }),
            reason: match error {
                NegativesError::Unfit { reason, .. } => reason,
                broken => broken.to_string(),
            },
        }
    }
}

impl From<Refusal> for v1::Refusal {
    fn from(refusal: Refusal) -> Self {
        Self {
            activation: refusal.activation,
            generation: refusal.generation,
            reason: refusal.reason,
        }
    }
}

/// What the training loop may look at between two steps.
#[derive(Clone, Default)]
struct Slot {
    ready: Option<Arc<Negatives>>,
    /// Why the last generation could not be used, until a later one can.
    refusal: Option<Refusal>,
}

/// Holds the newest usable generation.
pub struct Feed {
    slot: watch::Receiver<Slot>,
    tasks: [JoinHandle<()>; 2],
}

impl Feed {
    /// Starts listening for activations after number `after`.
    #[must_use]
    pub fn start(runtime: &Handle, link: Link, source: Source, after: u64) -> Self {
        let (announce, announced) = watch::channel(None);
        let (offer, slot) = watch::channel(Slot::default());
        let tasks = [
            runtime.spawn(follow(link, after, announce)),
            runtime.spawn(prepare(source, announced, offer)),
        ];
        Self { slot, tasks }
    }

    /// The newest usable generation if its activation is after number `after`.
    /// Never waits.
    #[must_use]
    pub fn newer(&self, after: u64) -> Option<Arc<Negatives>> {
        let ready = self.slot.borrow().ready.clone();
        ready.filter(|negatives| negatives.activation().activation > after)
    }

    /// Why the newest generation was refused, if it was.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.slot.borrow().refusal.clone()
    }

    /// Waits until something happens, at most `limit`.
    pub async fn changed(&mut self, limit: Duration) {
        if let Ok(Err(_)) = tokio::time::timeout(limit, self.slot.changed()).await {
            // The feed's tasks are gone, which only a shutdown does.
            tokio::time::sleep(limit).await;
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Turns the newest activation into a usable generation.
async fn prepare(
    source: Source,
    mut announced: watch::Receiver<Option<Activation>>,
    offer: watch::Sender<Slot>,
) {
    while announced.changed().await.is_ok() {
        let Some(activation) = announced.borrow_and_update().clone() else {
            continue;
        };
        let number = activation.generation;
        let mut backoff = new_backoff();
        loop {
            let error = match source.negatives(activation.clone()).await {
                Ok(negatives) => {
                    say_ready(&negatives, source.drawn);
                    let ready = Some(Arc::new(negatives));
                    offer.send_replace(Slot {
                        ready,
                        refusal: None,
                    });
                    break;
                }
                Err(error) => error,
            };
            if !error.is_retryable() {
                tracing::error!(generation = number, %error, "cannot use the new generation");
                let refusal = Refusal::new(&activation, error);
                offer.send_modify(|slot| slot.refusal = Some(refusal));
                break;
            }
            tracing::warn!(generation = number, %error, "cannot fetch the new generation, trying again");
            tokio::time::sleep(backoff.next_pause()).await;
            if announced.has_changed().unwrap_or(true) {
                break; // A newer one is due, or training is over.
            }
        }
    }
}

/// Law 8: queries that will train on fewer negatives than asked for are counted.
fn say_ready(negatives: &Negatives, drawn: usize) {
    let generation = negatives.activation().generation;
    match negatives.short_of(drawn) {
        0 => tracing::info!(generation, "negatives are ready"),
        queries => tracing::warn!(
            generation,
            queries,
            wanted = drawn,
            "negatives are ready, but some queries have fewer than train.negatives; mine deeper (mining.depth) or relax mining.max_positive_ratio"
        ),
    }
}
