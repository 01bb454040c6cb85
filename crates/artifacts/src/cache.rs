//! The bounded local cache of store objects, as files that can be mapped into
//! memory. Owns verification, sharing of concurrent downloads, and eviction of
//! the least recently used files that nobody holds. Refuses writes: a cached
//! file is read-only to everyone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::error::{ArtifactError, Result};
use crate::object_ref::{ObjectRef, check_path};
use crate::store::Store;
use crate::upload::hash_in_background;

/// Processes that may share one cache folder, each in its own slot.
const SLOTS: usize = 64;

/// A local cache; clones share it.
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

struct Shared {
    slot: PathBuf,
    max_bytes: u64,
    /// Locked as long as this process uses the slot; the lock ends with it.
    _lock: std::fs::File,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Digest, Entry>,
    /// Bytes of all entries and of downloads under way.
    bytes: u64,
    /// Counts uses; orders entries by their last one.
    uses: u64,
    /// Files of local stores whose content was verified by this process.
    verified: BTreeMap<PathBuf, Digest>,
    /// One turn per object: the second to ask waits for the first one's download.
    turns: BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>,
}

struct Entry {
    file: Arc<PathBuf>,
    size: u64,
    last_use: u64,
    /// False for a file left by an earlier process until its hash is checked.
    verified: bool,
}

/// A verified local file; it is not evicted while this or a clone lives.
#[derive(Debug, Clone)]
pub struct CachedFile(Arc<PathBuf>);

impl CachedFile {
    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for CachedFile {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

impl Cache {
    /// A cache in `dir` (made if missing) of at most `max_bytes`, except when
    /// files in use need more. Processes given the same folder use separate
    /// slots of it; files of an earlier process are taken over.
    ///
    /// # Errors
    /// If the folder cannot be made or used.
    pub fn new(dir: impl AsRef<Path>, max_bytes: u64) -> Result<Self> {
        let (slot, lock) = claim_slot(dir.as_ref())?;
        let state = Mutex::new(take_over(&slot)?);
        Ok(Self(Arc::new(Shared {
            slot,
            max_bytes,
            _lock: lock,
            state,
        })))
    }

    /// The verified file of `object`: downloaded, or for a local store the
    /// store's own file. Each file is hashed once in the life of the process.
    ///
    /// # Errors
    /// As [`Store::get`]; a failed or cancelled download leaves nothing behind.
    pub async fn fetch(&self, store: &Store, object: &ObjectRef) -> Result<CachedFile> {
        check_path(&object.path)?;
        let digest = &object.sha256;
        let turn = Arc::clone(self.state().turns.entry(digest.clone()).or_default());
        let outcome = {
            let _turn = turn.lock().await;
            match store.local_folder() {
                Some(folder) => self.verify_in_place(store, object, folder).await,
                None => self.fetch_remote(store, object).await,
            }
        };
        let mut state = self.state();
        // Ours and the map's: nobody else waits for this object.
        if Arc::strong_count(&turn) == 2 {
            state.turns.remove(digest);
        }
        outcome
    }

    /// Bytes on disk and being downloaded.
    pub fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// The folder this process's files lie in.
    pub fn folder(&self) -> &Path {
        &self.0.slot
    }

    async fn verify_in_place(
        &self,
        store: &Store,
        object: &ObjectRef,
        folder: &Path,
    ) -> Result<CachedFile> {
        let path = folder.join(&object.path);
        store.check_size(object).await?;
        if self.state().verified.get(&path) != Some(&object.sha256) {
            let (found, _) = hash_in_background(&path).await?;
            if found != object.sha256 {
                return Err(store.mismatch(object, "sha256", &object.sha256, found));
            }
            self.state().verified.insert(path.clone(), found);
        }
        Ok(CachedFile(Arc::new(path)))
    }

    async fn fetch_remote(&self, store: &Store, object: &ObjectRef) -> Result<CachedFile> {
        if let Some(file) = self.reuse(object).await? {
            return Ok(file);
        }
        // Before anything is evicted for a size that is not the object's.
        store.check_size(object).await?;
        let reserved = self.reserve(object)?;
        let fail = |e: std::io::Error| ArtifactError::local(&self.0.slot, &e);
        let partial = tempfile::Builder::new()
            .prefix("partial-")
            .tempfile_in(&self.0.slot)
            .map_err(fail)?
            .into_temp_path();
        store.download(object, &partial).await?;
        let path = self.0.slot.join(object.sha256.as_str());
        partial.persist(&path).map_err(|e| fail(e.error))?;
        Ok(reserved.keep(object, path))
    }

    /// The entry of `object`, its hash checked if an earlier process left it.
    async fn reuse(&self, object: &ObjectRef) -> Result<Option<CachedFile>> {
        let Some((file, verified)) = self.state().touch(&object.sha256) else {
            return Ok(None);
        };
        if !verified {
            let found = hash_in_background(file.path()).await;
            let mut state = self.state();
            if found.is_ok_and(|(digest, _)| digest == object.sha256) {
                if let Some(entry) = state.entries.get_mut(&object.sha256) {
                    entry.verified = true;
                }
            } else {
                tracing::warn!(file = %file.path().display(), "a cached file is damaged, fetching it again");
                state.remove(&object.sha256);
                return Ok(None);
            }
        }
        Ok(Some(file))
    }

    /// Evicts until `object` fits, and counts it from now on.
    fn reserve(&self, object: &ObjectRef) -> Result<Reserved<'_>> {
        let mut state = self.state();
        while state.bytes.saturating_add(object.size) > self.0.max_bytes {
            let Some(digest) = state.least_recently_used() else {
                tracing::warn!(
                    bytes = state.bytes.saturating_add(object.size),
                    max_bytes = self.0.max_bytes,
                    "files in use exceed the cache's size"
                );
                break;
            };
            state.remove(&digest);
        }
        state.bytes = state.bytes.saturating_add(object.size);
        Ok(Reserved {
            cache: self,
            size: object.size,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn touch(&mut self, digest: &Digest) -> Option<(CachedFile, bool)> {
        self.uses += 1;
        let entry = self.entries.get_mut(digest)?;
        entry.last_use = self.uses;
        Some((CachedFile(Arc::clone(&entry.file)), entry.verified))
    }

    fn least_recently_used(&self) -> Option<Digest> {
        let unheld = self
            .entries
            .iter()
            .filter(|(_, e)| Arc::strong_count(&e.file) == 1);
        unheld
            .min_by_key(|(_, e)| e.last_use)
            .map(|(digest, _)| digest.clone())
    }

    fn remove(&mut self, digest: &Digest) {
        if let Some(entry) = self.entries.remove(digest) {
            self.bytes -= entry.size;
            if let Err(error) = std::fs::remove_file(entry.file.as_path()) {
                tracing::warn!(file = %entry.file.display(), %error, "could not remove a cached file");
            }
        }
    }
}

/// Space counted for a download; given back if the download fails.
struct Reserved<'a> {
    cache: &'a Cache,
    size: u64,
}

impl Reserved<'_> {
    fn keep(mut self, object: &ObjectRef, path: PathBuf) -> CachedFile {
        let mut state = self.cache.state();
        state.uses += 1;
        let file = Arc::new(path);
        let entry = Entry {
            file: Arc::clone(&file),
            size: self.size,
            last_use: state.uses,
            verified: true,
        };
        state.entries.insert(object.sha256.clone(), entry);
        self.size = 0;
        drop(state);
        CachedFile(file)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.cache.state().bytes -= self.size;
    }
}

/// The first slot of `dir` that no other process holds.
fn claim_slot(dir: &Path) -> Result<(PathBuf, std::fs::File)> {
    for number in 0..SLOTS {
        let slot = dir.join(format!("slot-{number:02}"));
        let fail = |e: std::io::Error| ArtifactError::local(&slot, &e);
        std::fs::create_dir_all(&slot).map_err(fail)?;
        let lock = std::fs::File::create(slot.join("lock")).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => return Ok((slot, lock)),
            Err(std::fs::TryLockError::WouldBlock) => {}
            Err(std::fs::TryLockError::Error(error)) => return Err(fail(error)),
        }
    }
    Err(ArtifactError::Io {
        url: "the local disk".into(),
        path: dir.display().to_string(),
        reason: format!("all {SLOTS} slots of this cache folder are in use by other processes"),
    })
}

/// Adopts the files an earlier process left in `slot`, oldest first, and removes
/// its partial downloads.
fn take_over(slot: &Path) -> Result<State> {
    let fail = |e: std::io::Error| ArtifactError::local(slot, &e);
    let mut found = Vec::new();
    for item in std::fs::read_dir(slot).map_err(fail)? {
        let item = item.map_err(fail)?;
        let name = item.file_name().to_string_lossy().into_owned();
        if let Ok(digest) = name.parse::<Digest>() {
            let meta = item.metadata().map_err(fail)?;
            found.push((
                meta.modified().map_err(fail)?,
                digest,
                item.path(),
                meta.len(),
            ));
        } else if name.starts_with("partial-") {
            std::fs::remove_file(item.path()).map_err(fail)?;
        }
    }
    found.sort();
    let mut state = State::default();
    for (_, digest, path, size) in found {
        state.uses += 1;
        state.bytes += size;
        let entry = Entry {
            file: Arc::new(path),
            size,
            last_use: state.uses,
            verified: false,
        };
        state.entries.insert(digest, entry);
    }
    Ok(state)
}
