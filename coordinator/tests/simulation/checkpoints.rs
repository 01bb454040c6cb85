//! Checkpoints of the simulated trainer: a model, its state, the manifest last.

use crate::feed::Negatives;
use crate::trainer::learn;
use bytes::Bytes;
use quarry_artifacts::{
    ArtifactError, CheckpointManifest, CheckpointRef, Created, Digest, ObjectRef, Result, Store,
    create_json, layout,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const MODEL: &str = "model.safetensors";
const STATE: &str = "trainer/state.json";

/// Where training stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The next step.
    pub step: u64,
    pub weights: Digest,
    pub active: Option<Negatives>,
    /// The version log: step and generation.
    pub swaps: Vec<(u64, u64)>,
}

impl Position {
    /// Before the first step.
    pub fn start(initial: &CheckpointRef) -> Self {
        Self {
            step: 0,
            weights: initial.digest.clone(),
            active: None,
            swaps: vec![],
        }
    }

    /// The weights that the version log gives again (law 4), where `negatives` are
    /// those of a generation.
    pub fn repeated(
        &self,
        initial: &Digest,
        negatives: impl Fn(u64) -> Option<Digest>,
    ) -> Option<Digest> {
        let mut weights = initial.clone();
        for step in 0..self.step {
            let (_, generation) = self.swaps.iter().rev().find(|(at, _)| *at <= step)?;
            weights = learn(&weights, step, &negatives(*generation)?);
        }
        Some(weights)
    }
}

/// The manifest of a checkpoint that holds `files`.
fn manifest(step: u64, files: &[(&str, Bytes)]) -> Result<CheckpointManifest> {
    let model = Digest::of(&files[0].1);
    let digest = Digest::of(format!("{MODEL}\0{model}\n").as_bytes());
    let folder = layout::checkpoint_folder(step, &digest);
    let object = |(name, bytes): &(&str, Bytes)| {
        let path = format!("{folder}/{name}");
        let object = ObjectRef::new(path, bytes.len() as u64, Digest::of(bytes))?;
        Ok(((*name).to_owned(), object))
    };
    Ok(CheckpointManifest {
        step,
        digest,
        files: files.iter().map(object).collect::<Result<_>>()?,
        generation: None,
        created_unix: 0,
        notes: BTreeMap::new(),
    })
}

/// Publishes the model that training starts from.
pub async fn publish_initial(store: &Store) -> Result<CheckpointRef> {
    put(store, 0, &[(MODEL, Bytes::from_static(b"random"))]).await
}

/// Publishes where training stands.
pub async fn publish(store: &Store, position: &Position) -> Result<CheckpointRef> {
    let model = Bytes::from(position.weights.to_string());
    let state = Bytes::from(serde_json::to_vec(position).unwrap());
    put(store, position.step, &[(MODEL, model), (STATE, state)]).await
}

async fn put(store: &Store, step: u64, files: &[(&str, Bytes)]) -> Result<CheckpointRef> {
    let manifest = manifest(step, files)?;
    let reference = manifest.reference();
    if store.head(&reference.manifest).await?.is_some() {
        restore_damaged(store, &reference.manifest, files).await?;
        return Ok(reference);
    }
    for (name, bytes) in files {
        let path = &manifest.files[*name].path;
        // What an attempt that was killed left was never published.
        if store.create(path, bytes.clone()).await? == Created::Exists {
            store.delete(path).await?;
            store.create(path, bytes.clone()).await?;
        }
    }
    create_json(store, &reference.manifest, "checkpoint manifest", &manifest).await?;
    Ok(reference)
}

/// Puts back what came short of a checkpoint that was published before.
async fn restore_damaged(store: &Store, manifest: &str, files: &[(&str, Bytes)]) -> Result<()> {
    let published = CheckpointManifest::read(store, manifest).await?;
    for (name, bytes) in files {
        let object = &published.files[*name];
        match store.get(object).await {
            Ok(_) => {}
            Err(error) if error.is_retryable() || Digest::of(bytes) != object.sha256 => {
                return Err(error);
            }
            Err(_) => {
                store.delete(&object.path).await?;
                store.create(&object.path, bytes.clone()).await?;
            }
        }
    }
    Ok(())
}

/// Where the newest complete checkpoint of a trainer stands.
pub async fn newest(store: &Store) -> Result<Option<Position>> {
    let mut found = Vec::new();
    for (path, _) in store.list(layout::checkpoints_folder(), None).await? {
        if !path.ends_with(layout::MANIFEST) {
            continue;
        }
        match CheckpointManifest::read(store, &path).await {
            Ok(manifest) => found.extend(manifest.files.get(STATE).cloned()),
            Err(error) if error.is_retryable() => return Err(error),
            Err(_) => {} // collected since it was listed
        }
    }
    found.sort(); // by path, which begins with the step
    for state in found.into_iter().rev() {
        match store.get(&state).await {
            Ok(bytes) => return Ok(Some(serde_json::from_slice(&bytes).unwrap())),
            Err(error @ ArtifactError::Unavailable { .. }) => return Err(error),
            Err(_) => {} // damaged or collected: passed over
        }
    }
    Ok(None)
}
