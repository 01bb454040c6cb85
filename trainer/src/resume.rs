//! Going on from the newest complete checkpoint.
//!
//! Owns: finding it (a manifest and every file verified, the trainer's state
//! among them) and reading it back. Passes over a damaged one, and says so.
//! Refuses: to take a store that does not answer, or one whose checkpoints are all
//! damaged, for one without checkpoints.

use crate::state::{FOLDER, OPTIMIZER, STATE, TrainerState};
use anyhow::{Context, Result, bail, ensure};
use quarry_artifacts::{
    ArtifactError, Cache, CheckpointFiles, CheckpointManifest, CheckpointRef, Store,
    fetch_checkpoint, layout,
};
use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use tch::{TchError, Tensor};

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
/// The store's or the disk's failure, or that every checkpoint is damaged.
pub async fn newest(store: &Store, cache: &Cache, work: &Path) -> Result<Option<Resumed>> {
    let Candidates { usable, unreadable } = candidates(store).await?;
    let names = usable.iter().map(|manifest| manifest.reference().manifest);
    let newest = names.chain(unreadable).max(); // Names begin with the step.
    for manifest in usable {
        let name = manifest.reference().manifest;
        match fetch(store, cache, work, &manifest).await {
            Ok(resumed) => return Ok(Some(resumed)),
            Err(error) if is_damage(&error) => pass_over(&name, &error),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot resume from {name}"));
            }
        }
    }
    if let Some(name) = newest {
        bail!(
            "no checkpoint in the store {} can be resumed from, not even the newest, {name}; restore its files (the warnings say what is wrong) or start a new run in another store",
            store.url()
        );
    }
    Ok(None)
}

fn pass_over(checkpoint: &str, error: &anyhow::Error) {
    let reason = format!("{error:#}");
    tracing::warn!(
        checkpoint,
        reason,
        "passed over a checkpoint that cannot be resumed from"
    );
}

/// Whether a checkpoint is at fault. If not, an older one would be no remedy: the
/// steps since would be lost to a store or disk that may work again in a minute.
fn is_damage(error: &anyhow::Error) -> bool {
    error.chain().all(|cause| {
        if let Some(error) = cause.downcast_ref::<ArtifactError>() {
            return is_damaged(error);
        }
        !cause.is::<std::io::Error>() && !matches!(cause.downcast_ref(), Some(TchError::Io(_)))
    })
}

fn is_damaged(error: &ArtifactError) -> bool {
    use ArtifactError as E;
    matches!(
        error,
        E::NotFound { .. }
            | E::Mismatch { .. }
            | E::Invalid { .. }
            | E::UnsafePath { .. }
            | E::NotADigest { .. }
    )
}

/// Whether the store holds a checkpoint that a trainer wrote, and of which step.
///
/// # Errors
/// The store's failure.
pub async fn newest_step(store: &Store) -> Result<Option<u64>> {
    Ok(candidates(store)
        .await?
        .usable
        .first()
        .map(|manifest| manifest.step))
}

/// What the store lists.
struct Candidates {
    /// Manifests of trainers' checkpoints, newest first: by step, then by time.
    usable: Vec<CheckpointManifest>,
    /// Paths of damaged manifests: whose they were cannot be known.
    unreadable: Vec<String>,
}

async fn candidates(store: &Store) -> Result<Candidates> {
    let suffix = format!("/{}", layout::MANIFEST);
    let (mut usable, mut unreadable) = (Vec::new(), Vec::new());
    for (path, _) in store.list(layout::checkpoints_folder(), None).await? {
        if !path.ends_with(&suffix) {
            continue;
        }
        match CheckpointManifest::read(store, &path).await {
            Ok(manifest) if manifest.files.contains_key(&format!("{FOLDER}/{STATE}")) => {
                usable.push(manifest);
            }
            Ok(_) => {} // The initial model: no trainer wrote it.
            Err(error) if error.is_not_found() => {} // Collected since it was listed.
            Err(error) if is_damaged(&error) => {
                pass_over(&path, &error.into());
                unreadable.push(path);
            }
            Err(error) => return Err(error.into()),
        }
    }
    usable.sort_by_key(|manifest| Reverse((manifest.step, manifest.created_unix)));
    Ok(Candidates { usable, unreadable })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_checkpoint_at_fault_is_passed_over() {
        let (url, path) = (String::from("s3://bucket"), String::from("checkpoints/x"));
        let reason = String::from("timed out");
        let missing = ArtifactError::NotFound {
            url: url.clone(),
            path: path.clone(),
        };
        let full = ArtifactError::NoSpace {
            url: url.clone(),
            path: path.clone(),
        };
        let away = ArtifactError::Unavailable { url, path, reason };
        let local = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert!(is_damage(&missing.into()));
        assert!(is_damage(&anyhow::anyhow!("its state is of step 3")));
        assert!(!is_damage(&anyhow::Error::from(away).context("a reason")));
        assert!(!is_damage(&full.into()));
        assert!(!is_damage(&anyhow::Error::from(local()).context("a file")));
        assert!(!is_damage(&TchError::Io(local()).into()));
    }
}
