//! Checkpoints: a folder of files published one by one, its manifest last, and
//! fetched back as a folder. Owns the digest that names a model. Refuses
//! pickles, and files whose names are not safe object paths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, CachedFile};
use crate::create::Created;
use crate::digest::{Digest, Hasher};
use crate::document::{create_json, read_json};
use crate::error::{ArtifactError, Result};
use crate::layout;
use crate::object_ref::{ObjectRef, check_path};
use crate::store::Store;
use crate::upload::hash_in_background;

const KIND: &str = "checkpoint manifest";

/// Files below this folder are the trainer's state, not the model's.
const TRAINER: &str = "trainer/";

/// A published checkpoint: a complete list of its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointManifest {
    /// Optimizer steps taken; 0 for the initial model.
    pub step: u64,
    /// Identity of the model: sha256 over the sorted names and hashes of all
    /// files outside `trainer/`.
    pub digest: Digest,
    /// Every file, by its name inside the folder (`1_Pooling/config.json`).
    pub files: BTreeMap<String, ObjectRef>,
    /// Generation of negatives the trainer used last.
    pub generation: Option<u64>,
    /// When it was written, in seconds since 1970. For people only.
    pub created_unix: u64,
    /// Anything else the publisher wants to record.
    #[serde(default)]
    pub notes: BTreeMap<String, serde_json::Value>,
}

/// One checkpoint, named by what it is and where its manifest lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRef {
    /// Optimizer steps taken.
    pub step: u64,
    /// Identity of the model (see [`CheckpointManifest::digest`]).
    pub digest: Digest,
    /// Path of the manifest in the store.
    pub manifest: String,
}

/// Where a checkpoint comes from, as far as its files do not say.
#[derive(Debug, Clone, Default)]
pub struct CheckpointOrigin {
    /// Generation of negatives the trainer used last.
    pub generation: Option<u64>,
    /// Seconds since 1970, for people only.
    pub created_unix: u64,
    /// Anything else worth recording.
    pub notes: BTreeMap<String, serde_json::Value>,
}

/// Which files of a checkpoint to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointFiles {
    /// The model alone: what an inferencer needs.
    Model,
    /// Also the trainer's state: what a resuming trainer needs.
    All,
}

impl CheckpointManifest {
    /// This checkpoint's name.
    pub fn reference(&self) -> CheckpointRef {
        CheckpointRef {
            step: self.step,
            digest: self.digest.clone(),
            manifest: layout::checkpoint_manifest(self.step, &self.digest),
        }
    }

    /// Reads and checks the manifest at `path`.
    ///
    /// # Errors
    /// If it is missing, not a manifest, or its files do not make its digest.
    pub async fn read(store: &Store, path: &str) -> Result<Self> {
        let manifest: Self = read_json(store, path, KIND).await?;
        let hashes = manifest
            .files
            .iter()
            .map(|(name, file)| (name.as_str(), &file.sha256));
        let folder = path.strip_suffix(layout::MANIFEST).unwrap_or_default();
        let invalid = |reason: String| {
            Err(ArtifactError::Invalid {
                path: path.to_string(),
                kind: KIND,
                reason,
            })
        };
        for (name, file) in &manifest.files {
            check_path(name)?;
            if file.path != format!("{folder}{name}") {
                return invalid(format!("files.{name} points to {}", file.path));
            }
        }
        if model_digest(hashes) != manifest.digest {
            return invalid("the files' hashes do not make the digest".into());
        }
        Ok(manifest)
    }
}

/// Publishes the folder `local` as the checkpoint of `step`: files first, the
/// manifest last. Publishing the same model of the same step again returns the
/// manifest that is there; files of it that were damaged since are put back.
/// A folder that has no manifest yet is completed with this folder's files, also if
/// another attempt left other state of the trainer there.
/// Hidden files and pickles stay behind.
///
/// # Errors
/// If the folder cannot be read, holds no model, or the store fails; or if a
/// damaged file of a published checkpoint is not the one in this folder.
pub async fn publish_checkpoint(
    store: &Store,
    step: u64,
    local: &Path,
    origin: CheckpointOrigin,
) -> Result<CheckpointManifest> {
    let names = publishable_files(local)?;
    let mut hashes = BTreeMap::new();
    for name in &names {
        hashes.insert(name.as_str(), hash_in_background(&local.join(name)).await?);
    }
    if hashes.keys().all(|name| name.starts_with(TRAINER)) {
        let reason = "there is no model in this folder".to_string();
        return Err(ArtifactError::Invalid {
            path: local.display().to_string(),
            kind: "checkpoint",
            reason,
        });
    }
    let digest = model_digest(hashes.iter().map(|(name, (hash, _))| (*name, hash)));
    let manifest_path = layout::checkpoint_manifest(step, &digest);
    if store.head(&manifest_path).await?.is_some() {
        let manifest = CheckpointManifest::read(store, &manifest_path).await?;
        for (name, object) in &manifest.files {
            let ours = hashes.get(name.as_str()).map(|(hash, _)| hash);
            restore_damaged(store, object, &local.join(name), ours).await?;
        }
        return Ok(manifest);
    }
    let folder = layout::checkpoint_folder(step, &digest);
    let mut files = BTreeMap::new();
    for (name, (hash, size)) in hashes {
        let object = ObjectRef::new(format!("{folder}/{name}"), size, hash)?;
        put_unpublished(store, &object, &local.join(name)).await?;
        files.insert(name.to_owned(), object);
    }
    let CheckpointOrigin {
        generation,
        created_unix,
        notes,
    } = origin;
    let manifest = CheckpointManifest {
        step,
        digest,
        files,
        generation,
        created_unix,
        notes,
    };
    match create_json(store, &manifest_path, KIND, &manifest).await? {
        Created::Yes => Ok(manifest),
        Created::Exists => CheckpointManifest::read(store, &manifest_path).await,
    }
}

/// Puts one file of a folder that has no manifest yet. What an earlier attempt left
/// under the name was never published, so it is overwritten: a model's file came short,
/// and the trainer's state is as new as this attempt. In place: a deletion could come
/// late and meet the successor.
///
/// The size is looked at again, for a manifest must not name what came short.
async fn put_unpublished(store: &Store, object: &ObjectRef, local: &Path) -> Result<()> {
    use ArtifactError::{Mismatch, NotFound};
    match store.verify(object).await {
        Err(NotFound { .. }) => {}
        Err(error @ Mismatch { .. }) => {
            let path = &object.path;
            tracing::warn!(path, %error, "replacing a file of a checkpoint that was never completed");
        }
        outcome => return outcome,
    }
    store.put_over(object, local).await?;
    store.check_size(object).await
}

/// Puts back a file of a published checkpoint whose bytes are missing or no longer
/// the published ones, if `local`, of hash `ours`, still has those. Law 1 holds:
/// what is replaced is damage, by exactly what was published.
async fn restore_damaged(
    store: &Store,
    object: &ObjectRef,
    local: &Path,
    ours: Option<&Digest>,
) -> Result<()> {
    use ArtifactError::{Mismatch, NotFound};
    match store.verify(object).await {
        Err(error @ (Mismatch { .. } | NotFound { .. })) if ours == Some(&object.sha256) => {
            tracing::warn!(path = object.path, %error, "putting back a damaged file of a published checkpoint");
            store.put_over(object, local).await
        }
        outcome => outcome,
    }
}

/// Fetches the checkpoint into the folder `dest`, which appears complete or not
/// at all, and returns it. A folder fetched before is verified and kept.
///
/// # Errors
/// If the manifest or a file is missing or damaged, or `dest` cannot be made.
pub async fn fetch_checkpoint(
    store: &Store,
    cache: &Cache,
    manifest_path: &str,
    files: CheckpointFiles,
    dest: &Path,
) -> Result<PathBuf> {
    let manifest = CheckpointManifest::read(store, manifest_path).await?;
    let wanted: Vec<_> = manifest
        .files
        .iter()
        .filter(|(name, _)| files == CheckpointFiles::All || !name.starts_with(TRAINER))
        .collect();
    if holds_all(dest, &wanted).await {
        return Ok(dest.to_path_buf());
    }
    let fail = |e: std::io::Error| ArtifactError::local(dest, &e);
    let parent = dest
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(fail)?;
    let partial = tempfile::Builder::new()
        .prefix(".partial-")
        .tempdir_in(parent)
        .map_err(fail)?;
    for (name, object) in wanted {
        let file = cache.fetch(store, object).await?;
        place(&file, &partial.path().join(name))?;
    }
    if dest.exists() {
        std::fs::remove_dir_all(dest).map_err(fail)?;
    }
    std::fs::rename(partial.keep(), dest).map_err(fail)?;
    Ok(dest.to_path_buf())
}

/// Links or, across file systems, copies a cached file to `to`.
fn place(file: &CachedFile, to: &Path) -> Result<()> {
    let fail = |e: std::io::Error| ArtifactError::local(to, &e);
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    std::fs::hard_link(file.path(), to)
        .or_else(|_| std::fs::copy(file.path(), to).map(|_| ()))
        .map_err(fail)
}

async fn holds_all(folder: &Path, files: &[(&String, &ObjectRef)]) -> bool {
    for (name, object) in files {
        match hash_in_background(&folder.join(name)).await {
            Ok((digest, _)) if digest == object.sha256 => {}
            _ => return false,
        }
    }
    true
}

fn model_digest<'a>(files: impl Iterator<Item = (&'a str, &'a Digest)>) -> Digest {
    let mut hasher = Hasher::default();
    // Sorted, because both callers iterate a BTreeMap by name.
    for (name, sha256) in files.filter(|(name, _)| !name.starts_with(TRAINER)) {
        hasher.update(format!("{name}\0{sha256}\n").as_bytes());
    }
    hasher.finish()
}

/// Names of the files below `folder` that a checkpoint may hold, sorted.
fn publishable_files(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut pending = vec![String::new()];
    while let Some(inner) = pending.pop() {
        let path = folder.join(&inner);
        let fail = |e: std::io::Error| ArtifactError::local(&path, &e);
        for item in std::fs::read_dir(&path).map_err(fail)? {
            let item = item.map_err(fail)?;
            let base = item.file_name().to_string_lossy().into_owned();
            if base.starts_with('.') || is_pickle(&base) {
                tracing::debug!(file = base, "left out of the checkpoint");
                continue;
            }
            let name = if inner.is_empty() {
                base
            } else {
                format!("{inner}/{base}")
            };
            check_path(&name)?;
            // Follows links: a Hugging Face cache is a folder of links.
            if std::fs::metadata(item.path()).map_err(fail)?.is_dir() {
                pending.push(name);
            } else if name != layout::MANIFEST {
                names.push(name);
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Law 9: no pickles in artifacts.
fn is_pickle(name: &str) -> bool {
    let extension = Path::new(name)
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    ["bin", "pt", "pth", "pkl", "pickle", "ckpt"].contains(&extension.to_ascii_lowercase().as_str())
}
