//! Checkpoints written behind the trainer's back.
//!
//! Owns: the copy of weights and moments (all that training stops for; from a GPU it is
//! only enqueued), and one background task that waits for it, writes the folder and
//! publishes it, manifest last. At most one is in flight, and its copy is given back
//! once it is on disk. Refuses: overwriting anything, and stopping the run for a full disk.

use crate::optimizer::Snapshot;
use crate::outbox::{Letter, Outbox};
use crate::state::{FOLDER, OPTIMIZER, TrainerState};
use crate::step::Learner;
use anyhow::{Context, Result};
use quarry_artifacts::{CheckpointOrigin, CheckpointRef, Store, VersionSwap, publish_checkpoint};
use quarry_model::ModelCopy;
use quarry_torch_ext::release_spare_memory;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tch::Tensor;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Attempts to publish a checkpoint that must not be left out.
const ATTEMPTS: u32 = 5;

/// Writes and publishes checkpoints.
pub struct Checkpointer {
    runtime: Handle,
    store: Store,
    outbox: Arc<Outbox>,
    work: PathBuf,
    in_flight: Option<JoinHandle<Result<CheckpointRef>>>,
    published: Option<CheckpointRef>,
    /// Why the latest checkpoint could not be published; empty if it could.
    failure: watch::Sender<String>,
}

/// What one checkpoint consists of.
struct Parcel {
    folder: PathBuf,
    model: ModelCopy,
    moments: Snapshot,
    state: TrainerState,
    last: bool,
}

impl Checkpointer {
    /// A checkpointer whose folders are made in `work`.
    #[must_use]
    pub fn new(runtime: &Handle, store: Store, outbox: Arc<Outbox>, work: &Path) -> Self {
        Self {
            runtime: runtime.clone(),
            store,
            outbox,
            work: work.to_owned(),
            in_flight: None,
            published: None,
            failure: watch::Sender::new(String::new()),
        }
    }

    /// Why the latest checkpoint could not be published; empty if it could.
    #[must_use]
    pub fn failure(&self) -> String {
        self.failure.borrow().clone()
    }

    /// The newest checkpoint this process has published.
    #[must_use]
    pub fn published(&self) -> Option<&CheckpointRef> {
        self.published.as_ref()
    }

    /// Copies the model and begins to write it; `false` if the one before is
    /// still being written, in which case nothing is done.
    ///
    /// # Errors
    /// When libtorch refuses the copy.
    pub fn begin(&mut self, learner: &Learner, state: TrainerState, last: bool) -> Result<bool> {
        if self
            .in_flight
            .as_ref()
            .is_some_and(|task| !task.is_finished())
        {
            tracing::info!(
                step = state.step,
                "the checkpoint before is still being written, so this one is left out"
            );
            return Ok(false);
        }
        self.settle()?;
        let started = Instant::now();
        // The copy takes the place of what the step before gave back.
        release_spare_memory();
        // The next step writes to these tensors. On a GPU it does so in the same stream, behind
        // the copies enqueued here, so that nobody has to wait: the background task does.
        let model = learner.encoder().begin_copy()?;
        let moments = learner.optimizer().snapshot()?;
        let parcel = Parcel {
            folder: self.work.join(format!("step-{}", state.step)),
            model,
            moments,
            state,
            last,
        };
        let copied_ms = started.elapsed().as_secs_f64() * 1e3;
        tracing::debug!(step = parcel.state.step, copied_ms, "copied the weights");
        let (store, outbox) = (self.store.clone(), Arc::clone(&self.outbox));
        let failure = self.failure.clone();
        self.in_flight = Some(self.runtime.spawn(async move {
            let published = publish(store, outbox, parcel).await;
            let reason = published.as_ref().err();
            failure.send_replace(reason.map_or_else(String::new, |e| format!("{e:#}")));
            published
        }));
        Ok(true)
    }

    /// Takes note of the checkpoint in flight, waiting for it. A failure is
    /// logged: training goes on and tries again at the next one due.
    ///
    /// # Errors
    /// Only if the writing task itself died.
    pub fn settle(&mut self) -> Result<Option<anyhow::Error>> {
        let Some(task) = self.in_flight.take() else {
            return Ok(None);
        };
        let published = self.runtime.block_on(task);
        match published.context("the task that writes checkpoints died; resume the run")? {
            Ok(checkpoint) => {
                self.published = Some(checkpoint);
                Ok(None)
            }
            Err(error) => Ok(Some(error)),
        }
    }

    /// Writes and publishes a checkpoint that must not be left out, and waits for
    /// it: the last one of this process, or one that a version log asks for.
    ///
    /// # Errors
    /// When the store refused it several times.
    pub fn publish_now(
        &mut self,
        learner: &Learner,
        state: &TrainerState,
        complete: bool,
    ) -> Result<()> {
        self.settle()?;
        let mut pause = Duration::from_secs(1);
        let mut attempt = 1;
        loop {
            self.begin(learner, state.clone(), complete)?;
            match self.settle()? {
                None => return Ok(()),
                Some(error) if attempt == ATTEMPTS => {
                    return Err(error).with_context(|| {
                        format!(
                            "the checkpoint of step {} could not be published",
                            state.step
                        )
                    });
                }
                Some(_) => std::thread::sleep(pause),
            }
            attempt += 1;
            pause *= 2;
        }
    }
}

async fn publish(store: Store, outbox: Arc<Outbox>, parcel: Parcel) -> Result<CheckpointRef> {
    let (step, last) = (parcel.state.step, parcel.last);
    let origin = CheckpointOrigin {
        generation: parcel.state.active.as_ref().map(|active| active.generation),
        created_unix: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs()),
        notes: VersionSwap::note(&parcel.state.swaps),
    };
    let folder = parcel.folder.clone();
    // The copy ends here, before the upload, which may take long.
    let written = tokio::task::block_in_place(|| write_folder(parcel));
    let published = match written {
        Ok(()) => publish_checkpoint(&store, step, &folder, origin)
            .await
            .map_err(Into::into),
        Err(error) => Err(error),
    };
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        tracing::debug!(folder = %folder.display(), %error, "could not remove a folder");
    }
    let published = published.map(|manifest| manifest.reference());
    match &published {
        Ok(checkpoint) => {
            tracing::info!(
                step,
                digest = checkpoint.digest.short(),
                "published a checkpoint"
            );
            outbox.post(Letter::Checkpoint {
                checkpoint: checkpoint.clone(),
                last,
            });
        }
        Err(error) => tracing::warn!(
            step,
            reason = format!("{error:#}"),
            "could not publish a checkpoint, training goes on and tries again at the next one due"
        ),
    }
    published
}

fn write_folder(parcel: Parcel) -> Result<()> {
    let folder = &parcel.folder;
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    let trainer = folder.join(FOLDER);
    std::fs::create_dir_all(&trainer)
        .with_context(|| format!("cannot make the folder {}", trainer.display()))?;
    parcel.model.save(folder)?;
    let path = trainer.join(OPTIMIZER);
    let moments = parcel.moments.wait();
    let moments = moments.context("the copy of the optimizer's state failed")?;
    Tensor::write_safetensors(&moments, &path)
        .with_context(|| format!("cannot write {}; free some disk", path.display()))?;
    parcel.state.write(folder)
}
