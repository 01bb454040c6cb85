//! Publishing a prepared corpus and finding its files again. Owns the folder
//! and its completeness; the corpus manifest itself passes through as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, CachedFile};
use crate::create::Created;
use crate::digest::Digest;
use crate::document::{create_json, read_json};
use crate::error::{ArtifactError, Result};
use crate::layout;
use crate::object_ref::{ObjectRef, check_path};
use crate::store::Store;

const KIND: &str = "corpus manifest";

/// A prepared corpus in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusLocation {
    /// Folder in the store, without a final slash.
    pub folder: String,
    /// The corpus's identity.
    pub digest: Digest,
    /// Its files by name (`shard-00000.arrow`).
    pub files: BTreeMap<String, ObjectRef>,
    /// The corpus crate's manifest, as that crate wrote it.
    pub manifest: serde_json::Value,
}

impl CorpusLocation {
    /// The reference of file `name`.
    ///
    /// # Errors
    /// [`ArtifactError::Invalid`] if the corpus has no such file.
    pub fn file(&self, name: &str) -> Result<&ObjectRef> {
        self.files.get(name).ok_or_else(|| ArtifactError::Invalid {
            path: self.folder.clone(),
            kind: "prepared corpus",
            reason: format!("it has no file {name}"),
        })
    }

    /// Reads the published corpus with this digest.
    ///
    /// # Errors
    /// If there is none, or its manifest is damaged.
    pub async fn read(store: &Store, digest: &Digest) -> Result<Self> {
        read_json(store, &layout::corpus_manifest(digest), KIND).await
    }
}

/// Publishes the `files` of the folder `local` as the corpus `digest`, the
/// manifest last. A corpus published before is returned as it is.
///
/// # Errors
/// If a file cannot be read or the store fails.
pub async fn publish_corpus(
    store: &Store,
    digest: &Digest,
    local: &Path,
    files: &[String],
    manifest: serde_json::Value,
) -> Result<CorpusLocation> {
    let path = layout::corpus_manifest(digest);
    if store.head(&path).await?.is_some() {
        return CorpusLocation::read(store, digest).await;
    }
    let folder = layout::corpus_folder(digest);
    let mut published = BTreeMap::new();
    for name in files {
        check_path(name)?;
        let object = store
            .put_file_at(&format!("{folder}/{name}"), &local.join(name))
            .await?;
        published.insert(name.clone(), object);
    }
    let location = CorpusLocation {
        folder,
        digest: digest.clone(),
        files: published,
        manifest,
    };
    match create_json(store, &path, KIND, &location).await? {
        Created::Yes => Ok(location),
        Created::Exists => CorpusLocation::read(store, digest).await,
    }
}

/// Fetches file `name` of the corpus, verified.
///
/// # Errors
/// If the corpus has no such file, or it is missing or damaged.
pub async fn fetch_corpus_file(
    store: &Store,
    cache: &Cache,
    corpus: &CorpusLocation,
    name: &str,
) -> Result<CachedFile> {
    cache.fetch(store, corpus.file(name)?).await
}
