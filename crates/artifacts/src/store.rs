//! The store: small reads, listings and deletions. Owns the connection that
//! `create`, `upload` and `download` build on. Never overwrites an object.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as Location;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::backend;
use crate::error::{ArtifactError, Result};
use crate::object_ref::{ObjectRef, check_path};
use crate::retry::Retry;

/// An artifact store; clones share one connection.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    url: String,
    objects: Arc<dyn ObjectStore>,
    folder: Option<PathBuf>,
    retry: Retry,
}

impl Store {
    /// Opens `file:///abs`, a plain folder (made if missing), `s3://bucket/prefix`,
    /// `gs://…`, `az://…` (configured by the environment: `AWS_ENDPOINT`,
    /// `AWS_ALLOW_HTTP`, …) or `memory:` (new and empty, shared by clones only).
    ///
    /// # Errors
    /// If the address cannot be understood or the folder not made.
    pub async fn open(url: &str) -> Result<Self> {
        Self::from_backend(backend::open(url, true)?)
    }

    /// Like [`Store::open`], but a local folder must already be there: for
    /// readers, whose mistyped path should not become an empty store.
    ///
    /// # Errors
    /// If the address cannot be understood or the folder does not exist.
    pub async fn open_existing(url: &str) -> Result<Self> {
        Self::from_backend(backend::open(url, false)?)
    }

    /// A store over any backend, with its own retry rule; how tests put a
    /// failing backend underneath.
    pub fn over(objects: Arc<dyn ObjectStore>, url: &str, retry: Retry) -> Self {
        Self(Arc::new(Inner {
            url: url.to_string(),
            objects,
            folder: None,
            retry,
        }))
    }

    fn from_backend(backend: backend::Backend) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            url: backend.url,
            objects: backend.objects,
            folder: backend.folder,
            retry: Retry::default(),
        })))
    }

    /// The store's address in full (`file:///abs/path`, `s3://…`).
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// The root folder of a local store.
    pub fn local_folder(&self) -> Option<&Path> {
        self.0.folder.as_deref()
    }

    /// The whole content of `path`, unverified; `None` if there is no such
    /// object. For manifests and log records, which have no reference.
    ///
    /// # Errors
    /// If the store fails or the path is unsafe.
    pub async fn get_raw(&self, path: &str) -> Result<Option<Bytes>> {
        let location = self.location(path)?;
        let read = || async {
            let result = self
                .objects()
                .get(&location)
                .await
                .map_err(|e| self.error(path, e))?;
            result.bytes().await.map_err(|e| self.error(path, e))
        };
        absent_as_none(self.retry().run(path, read).await)
    }

    /// Size of `path` in bytes; `None` if there is no such object.
    ///
    /// # Errors
    /// If the store fails or the path is unsafe.
    pub async fn head(&self, path: &str) -> Result<Option<u64>> {
        let location = self.location(path)?;
        let read = || async {
            let meta = self
                .objects()
                .head(&location)
                .await
                .map_err(|e| self.error(path, e))?;
            Ok(meta.size)
        };
        absent_as_none(self.retry().run(path, read).await)
    }

    /// Checks that `object` is there, at its size; its content is not read.
    pub(crate) async fn check_size(&self, object: &ObjectRef) -> Result<()> {
        match self.head(&object.path).await? {
            Some(size) if size == object.size => Ok(()),
            Some(size) => Err(self.mismatch(object, "size", object.size, size)),
            None => Err(ArtifactError::NotFound {
                url: self.url().to_string(),
                path: object.path.clone(),
            }),
        }
    }

    /// Paths and sizes of all objects in folder `prefix` (empty: the whole
    /// store), at any depth, sorted by path; `after` skips paths up to and
    /// including it.
    ///
    /// # Errors
    /// If the store fails or a path is unsafe.
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<(String, u64)>> {
        let folder = if prefix.is_empty() {
            None
        } else {
            Some(self.location(prefix)?)
        };
        let after = after.map(|path| self.location(path)).transpose()?;
        let read = || async {
            let stream = match &after {
                Some(after) => self.objects().list_with_offset(folder.as_ref(), after),
                None => self.objects().list(folder.as_ref()),
            };
            let found: Vec<_> = stream
                .map_ok(|meta| (String::from(meta.location), meta.size))
                .try_collect()
                .await
                .map_err(|e| self.error(prefix, e))?;
            Ok(found)
        };
        let mut found = match self.retry().run(prefix, read).await {
            Err(error) if error.is_not_found() => Vec::new(),
            outcome => outcome?,
        };
        found.sort();
        Ok(found)
    }

    /// Deletes `path`; an object that is already gone is no error.
    ///
    /// # Errors
    /// If the store fails or the path is unsafe.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let location = self.location(path)?;
        let remove = || async {
            self.objects()
                .delete(&location)
                .await
                .map_err(|e| self.error(path, e))
        };
        absent_as_none(self.retry().run(path, remove).await).map(|_| ())
    }

    pub(crate) fn objects(&self) -> &dyn ObjectStore {
        self.0.objects.as_ref()
    }

    pub(crate) fn retry(&self) -> &Retry {
        &self.0.retry
    }

    /// The backend's form of a checked path.
    pub(crate) fn location(&self, path: &str) -> Result<Location> {
        check_path(path)?;
        Location::parse(path).map_err(|_| ArtifactError::UnsafePath {
            path: path.to_string(),
            reason: "the backend refuses it",
        })
    }

    pub(crate) fn error(&self, path: &str, error: object_store::Error) -> ArtifactError {
        ArtifactError::from_backend(self.url(), path, error)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.url())
    }
}

fn absent_as_none<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
