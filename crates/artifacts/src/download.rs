//! Reading objects: every byte handed out was checked against the reference's
//! size and hash. Owns the split of large objects into ranges, so that a lost
//! connection costs one range and not the whole object.

use std::ops::Range;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::GetOptions;
use tokio::io::AsyncWriteExt;

use crate::digest::Hasher;
use crate::error::{ArtifactError, Result};
use crate::object_ref::ObjectRef;
use crate::store::Store;
use crate::upload::PART;

/// Ranges of one object under way at a time.
const PARALLEL: usize = 4;

impl Store {
    /// The content of `object`, verified.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`], [`ArtifactError::Mismatch`] naming the
    /// differing property, or the store's failure.
    pub async fn get(&self, object: &ObjectRef) -> Result<Bytes> {
        let mut reading = Reading::start(self, object).await?;
        let mut content = BytesMut::new();
        while let Some(part) = reading.next().await? {
            content.extend_from_slice(&part);
        }
        Ok(content.freeze())
    }

    /// Writes the verified content of `object` to the new or empty file `local`,
    /// in constant memory. After an error the file's content is worthless.
    pub(crate) async fn download(&self, object: &ObjectRef, local: &Path) -> Result<()> {
        let mut reading = Reading::start(self, object).await?;
        let fail = |e: std::io::Error| ArtifactError::local(local, &e);
        let mut file = tokio::fs::File::create(local).await.map_err(fail)?;
        while let Some(part) = reading.next().await? {
            file.write_all(&part).await.map_err(fail)?;
        }
        file.flush().await.map_err(fail)
    }

    /// Reads `object` through, keeping nothing.
    pub(crate) async fn verify(&self, object: &ObjectRef) -> Result<()> {
        let mut reading = Reading::start(self, object).await?;
        while reading.next().await?.is_some() {}
        Ok(())
    }

    async fn range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        let location = self.location(path)?;
        let read = || async {
            let options = GetOptions::new().with_range(Some(range.clone()));
            let fail = |e| self.error(path, e);
            let result = self
                .objects()
                .get_opts(&location, options)
                .await
                .map_err(fail)?;
            result.bytes().await.map_err(fail)
        };
        self.retry().run(path, read).await
    }

    pub(crate) fn mismatch(
        &self,
        object: &ObjectRef,
        what: &'static str,
        expected: impl ToString,
        actual: impl ToString,
    ) -> ArtifactError {
        ArtifactError::Mismatch {
            url: self.url().to_string(),
            path: object.path.clone(),
            what,
            expected: expected.to_string(),
            actual: actual.to_string(),
        }
    }
}

/// One object being read; trust what it gave only once it has given `None`.
struct Reading<'a> {
    store: &'a Store,
    object: &'a ObjectRef,
    parts: BoxStream<'static, Result<Bytes>>,
    hasher: Hasher,
    read: u64,
}

impl<'a> Reading<'a> {
    async fn start(store: &'a Store, object: &'a ObjectRef) -> Result<Self> {
        let size = store
            .head(&object.path)
            .await?
            .ok_or_else(|| ArtifactError::NotFound {
                url: store.url().to_string(),
                path: object.path.clone(),
            })?;
        if size != object.size {
            return Err(store.mismatch(object, "size", object.size, size));
        }
        let ranges = (0..size)
            .step_by(PART)
            .map(move |start| start..size.min(start + PART as u64));
        let (source, path) = (store.clone(), object.path.clone());
        let parts = stream::iter(ranges).map(move |range| {
            let (source, path) = (source.clone(), path.clone());
            async move { source.range(&path, range).await }
        });
        let parts = parts.buffered(PARALLEL).boxed();
        Ok(Self {
            store,
            object,
            parts,
            hasher: Hasher::default(),
            read: 0,
        })
    }

    /// The next part; `None` once all were read and the whole was verified.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(part) = self.parts.try_next().await? {
            self.hasher.update(&part);
            self.read += part.len() as u64;
            return Ok(Some(part));
        }
        if self.read != self.object.size {
            return Err(self
                .store
                .mismatch(self.object, "size", self.object.size, self.read));
        }
        let found = std::mem::take(&mut self.hasher).finish();
        if found != self.object.sha256 {
            return Err(self
                .store
                .mismatch(self.object, "sha256", &self.object.sha256, found));
        }
        Ok(None)
    }
}
