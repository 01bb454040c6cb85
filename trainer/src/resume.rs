//! Going on from the newest complete checkpoint.
//!
//! Owns: finding it (a manifest and every file verified, the trainer's state
//! among them) and reading it back. Refuses: a checkpoint of another run; passes
//! over a damaged one, and says so.

use crate::state::{FOLDER, OPTIMIZER, STATE, TrainerState};
use anyhow::{Context, Result, ensure};
use quarry_artifacts::{
    Cache, CheckpointFiles, CheckpointManifest, CheckpointRef, Store, fetch_checkpoint, layout,
};
use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// A checkpoint to go on from.
pub struct Resumed {
    /// Its name.
    pub checkpoint: CheckpointRef,
    /// The model folder, with the trainer's files inside.
    pub folder: PathBuf,
    /// Where training stood.
    pub state: TrainerState,
    /// The optimizer's state.
    pub moments: Vec<(String, Tensor)>,
}

/// The newest complete checkpoint of the store that a trainer wrote, fetched into
/// a folder of `work`; `None` if there is none yet.
///
/// # Errors
/// The store's failure.
pub async fn newest(store: &Store, cache: &Cache, work: &Path) -> Result<Option<Resumed>> {
    for manifest in candidates(store).await? {
        let name = manifest.reference().manifest;
        match fetch(store, cache, work, &manifest).await {
            Ok(resumed) => return Ok(Some(resumed)),
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::warn!(
                    checkpoint = name,
                    reason,
                    "passed over a checkpoint that cannot be resumed from"
                );
            }
        }
    }
    Ok(None)
}

/// Whether the store holds a checkpoint that a trainer wrote, and of which step.
///
/// # Errors
/// The store's failure.
pub async fn newest_step(store: &Store) -> Result<Option<u64>> {
    Ok(candidates(store)
        .await?
        .first()
        .map(|manifest| manifest.step))
}

/// Manifests of trainers' checkpoints, newest first: by step, then by time.
async fn candidates(store: &Store) -> Result<Vec<CheckpointManifest>> {
    let suffix = format!("/{}", layout::MANIFEST);
    let mut found = Vec::new();
    for (path, _) in store.list(layout::checkpoints_folder(), None).await? {
        if !path.ends_with(&suffix) {
            continue;
        }
        match CheckpointManifest::read(store, &path).await {
            Ok(manifest) if manifest.files.contains_key(&format!("{FOLDER}/{STATE}")) => {
                found.push(manifest);
            }
            Ok(_) => {} // The initial model: no trainer wrote it.
            Err(error) => {
                tracing::warn!(path, %error, "passed over a checkpoint that cannot be read");
            }
        }
    }
    found.sort_by_key(|manifest| Reverse((manifest.step, manifest.created_unix)));
    Ok(found)
}

async fn fetch(
    store: &Store,
    cache: &Cache,
    work: &Path,
    manifest: &CheckpointManifest,
) -> Result<Resumed> {
    let checkpoint = manifest.reference();
    let dest = work.join(format!("resumed-{}", manifest.step));
    let all = CheckpointFiles::All;
    let folder = fetch_checkpoint(store, cache, &checkpoint.manifest, all, &dest).await?;
    let state = TrainerState::read(&folder)?;
    ensure!(
        state.step == manifest.step,
        "its state is of step {} but its manifest of step {}",
        state.step,
        manifest.step
    );
    let path = folder.join(FOLDER).join(OPTIMIZER);
    let moments = Tensor::read_safetensors(&path)
        .with_context(|| format!("cannot read the optimizer's state {}", path.display()))?;
    Ok(Resumed {
        checkpoint,
        folder,
        state,
        moments,
    })
}
