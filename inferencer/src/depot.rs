//! The store and the local cache for code that computes: blocking calls, one
//! folder for scratch files.
//!
//! Keeps two rules for every task: what is read was verified against its
//! reference, and what is referenced was published whole. Refuses to be used on
//! the runtime's own threads.

use crate::error::{Result, TaskError, refuse};
use quarry_artifacts::{
    Cache, CachedFile, CheckpointFiles, CheckpointManifest, CheckpointRef, CorpusLocation,
    ObjectRef, Store, fetch_checkpoint,
};
use quarry_corpus::Embeddings;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::runtime::Handle;

/// Prefix of folders for files that are not published yet.
const SCRATCH: &str = "scratch-";

/// Store, cache and scratch space of one worker.
pub struct Depot {
    runtime: Handle,
    store: Store,
    cache: Cache,
    shared: PathBuf,
}

/// Something read from a cached file, which stays cached as long as this lives.
pub struct Held<T> {
    value: T,
    _file: CachedFile,
}

impl<T> Held<T> {
    /// Reads `file` with `open` and keeps it cached.
    pub(crate) fn open<E>(
        file: CachedFile,
        open: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            value: open(file.path())?,
            _file: file,
        })
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl Depot {
    /// A depot whose calls block on `runtime`, with a cache of at most
    /// `cache_bytes` in `dir`, a folder that several workers may share.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn new(runtime: Handle, store: Store, dir: &Path, cache_bytes: u64) -> Result<Self> {
        let cache = Cache::new(dir, cache_bytes)?;
        let depot = Self {
            runtime,
            store,
            cache,
            shared: dir.to_owned(),
        };
        depot.scratch_error(remove_scratch(depot.folder()))?;
        Ok(depot)
    }

    /// Folder of this process inside the cache folder.
    pub(crate) fn folder(&self) -> &Path {
        self.cache.folder()
    }

    /// The cache folder itself, shared by the workers of a machine.
    pub(crate) fn shared_folder(&self) -> &Path {
        &self.shared
    }

    /// The verified local file of `object`.
    pub(crate) fn fetch(&self, object: &ObjectRef) -> Result<CachedFile> {
        Ok(self
            .runtime
            .block_on(self.cache.fetch(&self.store, object))?)
    }

    /// The verified local file called `name` of the corpus.
    pub(crate) fn fetch_of_corpus(
        &self,
        corpus: &CorpusLocation,
        name: &str,
    ) -> Result<CachedFile> {
        self.fetch(corpus.file(name)?)
    }

    /// The vectors of `object`, mapped.
    ///
    /// # Errors
    /// If they do not stem from `checkpoint` (law 2: one generation, one checkpoint).
    pub(crate) fn embeddings(
        &self,
        object: &ObjectRef,
        checkpoint: &CheckpointRef,
    ) -> Result<Held<Embeddings>> {
        let embeddings = Held::open(self.fetch(object)?, Embeddings::open)?;
        if embeddings.checkpoint() != checkpoint.digest.as_str() {
            return refuse(format!(
                "embeddings {} stem from checkpoint {} but the generation from {}; encode them again",
                object.path,
                embeddings.checkpoint(),
                checkpoint.digest
            ));
        }
        Ok(embeddings)
    }

    /// The model folder of `checkpoint` at `dest`, its manifest's digest checked.
    pub(crate) fn checkpoint(&self, checkpoint: &CheckpointRef, dest: &Path) -> Result<PathBuf> {
        let manifest = &checkpoint.manifest;
        self.runtime.block_on(async {
            let found = CheckpointManifest::read(&self.store, manifest).await?;
            if found.digest != checkpoint.digest {
                return refuse(format!(
                    "checkpoint manifest {manifest} has digest {} but the task names {}; publish the checkpoint again",
                    found.digest, checkpoint.digest
                ));
            }
            let (store, cache) = (&self.store, &self.cache);
            Ok(fetch_checkpoint(store, cache, manifest, CheckpointFiles::Model, dest).await?)
        })
    }

    /// A folder for files that are not published yet; removed with the value.
    pub(crate) fn scratch(&self) -> Result<TempDir> {
        self.scratch_error(
            tempfile::Builder::new()
                .prefix(SCRATCH)
                .tempdir_in(self.folder()),
        )
    }

    /// Names the cache folder in an error of a scratch file.
    pub(crate) fn scratch_error<T>(&self, outcome: std::io::Result<T>) -> Result<T> {
        outcome.map_err(|source| TaskError::Scratch {
            folder: self.folder().display().to_string(),
            source,
        })
    }

    /// Publishes what `write` puts into a scratch file, under a name with its digest.
    pub(crate) fn publish<T, E>(
        &self,
        folder: &str,
        stem: &str,
        extension: &str,
        write: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<ObjectRef>
    where
        TaskError: From<E>,
    {
        let scratch = self.scratch()?;
        let path = scratch.path().join(format!("{stem}.{extension}"));
        write(&path)?;
        let object = self.store.put_file(folder, stem, extension, &path);
        Ok(self.runtime.block_on(object)?)
    }

    /// Publishes `bytes` under a name with their digest.
    pub(crate) fn publish_bytes(
        &self,
        folder: &str,
        stem: &str,
        extension: &str,
        bytes: Vec<u8>,
    ) -> Result<ObjectRef> {
        let object = self
            .store
            .put_content(folder, stem, extension, bytes.into());
        Ok(self.runtime.block_on(object)?)
    }
}

/// Removes what a killed process left in `folder`.
fn remove_scratch(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
