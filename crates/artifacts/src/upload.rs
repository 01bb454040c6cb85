//! Writing objects: bytes and files, small in one request, large in parts read
//! and hashed as they are sent. Owns content-addressed names. A reader never
//! sees part of an object; an upload that fails leaves none.

use std::path::Path;

use bytes::Bytes;
use object_store::{ObjectStoreExt, WriteMultipart};
use tokio::io::AsyncReadExt;

use crate::create::Created;
use crate::digest::{Digest, Hasher, hash_file};
use crate::error::{ArtifactError, Result};
use crate::object_ref::ObjectRef;
use crate::store::Store;

/// Size of one part of a large object: far above S3's least of 5 MiB, small
/// enough for a slow link within a request's time limit.
pub(crate) const PART: usize = 16 << 20;

/// Parts of one upload under way at a time.
const PARALLEL: usize = 4;

impl Store {
    /// Writes `bytes` as `<folder>/<stem>-<digest12>.<ext>`. Equal content
    /// published before is left as it is, so repeating is harmless; what came short
    /// is put right.
    ///
    /// # Errors
    /// If the store fails or a name is unsafe.
    pub async fn put_content(
        &self,
        folder: &str,
        stem: &str,
        ext: &str,
        bytes: Bytes,
    ) -> Result<ObjectRef> {
        let object = content_ref(folder, stem, ext, bytes.len() as u64, Digest::of(&bytes))?;
        if !self.is_published(&object).await? {
            self.send(&object.path, Source::Bytes(bytes), Some(&object))
                .await?;
        }
        Ok(object)
    }

    /// Writes the local file as `<folder>/<stem>-<digest12>.<ext>`, in constant
    /// memory. Equal content published before is left as it is; what came short is
    /// put right.
    ///
    /// # Errors
    /// If the file cannot be read or changes meanwhile, or the store fails.
    pub async fn put_file(
        &self,
        folder: &str,
        stem: &str,
        ext: &str,
        local: &Path,
    ) -> Result<ObjectRef> {
        let (digest, size) = hash_in_background(local).await?;
        let object = content_ref(folder, stem, ext, size, digest)?;
        if !self.is_published(&object).await? {
            self.send(&object.path, Source::File(local, size), Some(&object))
                .await?;
        }
        Ok(object)
    }

    /// Writes the local file to exactly `path`. The same content already there
    /// is accepted; other content is not overwritten. Only one writer may use a
    /// path at a time: large files have no create-if-absent.
    ///
    /// # Errors
    /// [`ArtifactError::Exists`] if other content is there; else as `put_file`.
    pub async fn put_file_at(&self, path: &str, local: &Path) -> Result<ObjectRef> {
        let size = std::fs::metadata(local)
            .map_err(|e| ArtifactError::local(local, &e))?
            .len();
        let existing = self.head(path).await?;
        if existing.is_none() {
            return self.send(path, Source::File(local, size), None).await;
        }
        let (digest, size) = hash_in_background(local).await?;
        let object = ObjectRef::new(path, size, digest)?;
        match self.verify(&object).await {
            Ok(()) => Ok(object),
            Err(ArtifactError::Mismatch { .. }) => Err(ArtifactError::Exists {
                url: self.url().to_string(),
                path: path.to_string(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Writes the local file, which has the bytes of `object`, over whatever is at its
    /// path. For a file that no manifest names yet, or to put right what a manifest
    /// names; in place, for the reason that [`Store::replace_damaged`] gives.
    ///
    /// # Errors
    /// If the file cannot be read, is not that object or changes meanwhile, or the
    /// store fails.
    pub(crate) async fn put_over(&self, object: &ObjectRef, local: &Path) -> Result<()> {
        let source = Source::File(local, object.size);
        self.send(&object.path, source, Some(object))
            .await
            .map(|_| ())
    }

    /// Whether the content-addressed object is already there, at its full size.
    async fn is_published(&self, object: &ObjectRef) -> Result<bool> {
        Ok(self.head(&object.path).await? == Some(object.size))
    }

    /// Replaces what came short under a content-addressed name by what the name
    /// stands for. Law 1 holds: whoever does this writes the same bytes. A deletion
    /// would not be safe, for it may come late and meet the successor.
    async fn replace_damaged(&self, path: &str, bytes: Bytes) -> Result<()> {
        tracing::warn!(path, "replacing an object that is not what its name says");
        let location = self.location(path)?;
        let write = || async {
            let written = self.objects().put(&location, bytes.clone().into()).await;
            written.map_err(|e| self.error(path, e))
        };
        self.retry().run(path, write).await.map(|_| ())
    }

    /// Sends `source` to `path`; if `expected` is given, `path` is its
    /// content-addressed name and nothing appears unless the bytes read are its own.
    async fn send(
        &self,
        path: &str,
        source: Source<'_>,
        expected: Option<&ObjectRef>,
    ) -> Result<ObjectRef> {
        if source.size() <= PART as u64 {
            let bytes = source.read_all().await?;
            let object = ObjectRef::new(path, bytes.len() as u64, Digest::of(&bytes))?;
            unchanged(&object, expected)?;
            return match self.create(path, bytes.clone()).await? {
                Created::Yes => Ok(object),
                Created::Exists if expected.is_some() => {
                    self.replace_damaged(path, bytes).await?;
                    Ok(object)
                }
                Created::Exists => Err(ArtifactError::Exists {
                    url: self.url().to_string(),
                    path: path.to_string(),
                }),
            };
        }
        self.retry()
            .run(path, || self.send_parts(path, &source, expected))
            .await
    }

    async fn send_parts(
        &self,
        path: &str,
        source: &Source<'_>,
        expected: Option<&ObjectRef>,
    ) -> Result<ObjectRef> {
        let location = self.location(path)?;
        let fail = |e| self.error(path, e);
        let upload = self
            .objects()
            .put_multipart(&location)
            .await
            .map_err(fail)?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART);
        match self.feed(path, source, &mut writer).await {
            Ok(object) if unchanged(&object, expected).is_ok() => {
                writer.finish().await.map_err(fail)?;
                Ok(object)
            }
            outcome => {
                // The first error tells more than a failing clean-up.
                if let Err(error) = writer.abort().await {
                    tracing::warn!(path, %error, "could not discard a failed upload");
                }
                outcome.and_then(|object| unchanged(&object, expected).map(|()| object))
            }
        }
    }

    /// Reads, hashes and queues every part.
    async fn feed(
        &self,
        path: &str,
        source: &Source<'_>,
        writer: &mut WriteMultipart,
    ) -> Result<ObjectRef> {
        let mut parts = source.parts().await?;
        let mut hasher = Hasher::default();
        let mut size = 0;
        while let Some(part) = parts.next().await? {
            hasher.update(&part);
            size += part.len() as u64;
            writer
                .wait_for_capacity(PARALLEL)
                .await
                .map_err(|e| self.error(path, e))?;
            writer.put(part);
        }
        ObjectRef::new(path, size, hasher.finish())
    }
}

/// What is being written: bytes in memory, or a file and its size.
enum Source<'a> {
    Bytes(Bytes),
    File(&'a Path, u64),
}

impl Source<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, size) => *size,
        }
    }

    async fn read_all(self) -> Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::File(path, _) => {
                let bytes = tokio::fs::read(path).await;
                Ok(bytes.map_err(|e| ArtifactError::local(path, &e))?.into())
            }
        }
    }

    async fn parts(&self) -> Result<Parts<'_>> {
        match self {
            Self::Bytes(bytes) => Ok(Parts::Bytes(bytes.clone())),
            Self::File(path, _) => {
                let file = tokio::fs::File::open(path).await;
                Ok(Parts::File(
                    path,
                    file.map_err(|e| ArtifactError::local(path, &e))?,
                ))
            }
        }
    }
}

/// A source being read part by part.
enum Parts<'a> {
    Bytes(Bytes),
    File(&'a Path, tokio::fs::File),
}

impl Parts<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let part = match self {
            Self::Bytes(rest) => rest.split_to(rest.len().min(PART)),
            Self::File(path, file) => {
                let mut part = Vec::with_capacity(PART);
                let read = file.take(PART as u64).read_to_end(&mut part).await;
                read.map_err(|e| ArtifactError::local(path, &e))?;
                part.into()
            }
        };
        Ok((!part.is_empty()).then_some(part))
    }
}

/// Hashes a file without blocking the runtime.
pub(crate) async fn hash_in_background(path: &Path) -> Result<(Digest, u64)> {
    let owned = path.to_path_buf();
    match tokio::task::spawn_blocking(move || hash_file(&owned)).await {
        Ok(outcome) => outcome,
        Err(error) => Err(ArtifactError::local(path, &error.into())),
    }
}

fn content_ref(
    folder: &str,
    stem: &str,
    ext: &str,
    size: u64,
    digest: Digest,
) -> Result<ObjectRef> {
    let path = format!("{folder}/{stem}-{}.{ext}", digest.short());
    ObjectRef::new(path, size, digest)
}

fn unchanged(read: &ObjectRef, expected: Option<&ObjectRef>) -> Result<()> {
    match expected {
        Some(expected) if expected != read => Err(ArtifactError::Io {
            url: "the local disk".into(),
            path: read.path.clone(),
            reason: "the file changed while it was being published".into(),
        }),
        _ => Ok(()),
    }
}
