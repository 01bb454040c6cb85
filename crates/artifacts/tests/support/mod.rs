//! A backend that fails on demand, and small shorthands for the tests.
#![allow(dead_code)]

pub mod s3_server;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, UploadPart,
};
use quarry_artifacts::{Retry, Store};

/// What goes wrong, and how often before things work again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The write lands but its answer is lost.
    AnswerLost,
    /// "Already exists" though nothing landed: what an S3 409 becomes.
    FalseConflict,
    /// Nothing is written and the connection drops.
    Unavailable,
    /// The disk is full.
    Full,
    /// Half of it lands, and the answer is that all went well.
    Short,
    /// Create-if-absent is silently ignored.
    IgnoresCondition,
}

/// An in-memory store that misbehaves for the first `times` writes (or reads).
#[derive(Debug)]
pub struct FailingStore {
    pub inner: InMemory,
    pub writes: Fault,
    pub reads_unavailable: AtomicU32,
    /// Reads of content (not of sizes) that reached the store.
    pub gets: AtomicU32,
    left: AtomicU32,
    pub attempts: AtomicU32,
}

impl FailingStore {
    pub fn new(writes: Fault, times: u32) -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            writes,
            reads_unavailable: AtomicU32::new(0),
            gets: AtomicU32::new(0),
            left: AtomicU32::new(times),
            attempts: AtomicU32::new(0),
        })
    }

    /// A [`Store`] over this one with pauses of a millisecond.
    pub fn store(self: &Arc<Self>) -> Store {
        Store::over(Arc::clone(self) as Arc<dyn ObjectStore>, "failing:", FAST)
    }

    /// Replaces an object behind the store's back: damage.
    pub async fn damage(&self, path: &str, bytes: &'static [u8]) {
        self.inner
            .put(&Path::from(path), PutPayload::from_static(bytes))
            .await
            .unwrap();
    }

    fn fault(&self) -> Fault {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let left = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if left.is_ok() {
            self.writes
        } else {
            Fault::None
        }
    }
}

pub const FAST: Retry = Retry {
    attempts: 4,
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(2),
};

fn generic(kind: std::io::ErrorKind) -> Error {
    let source = Box::new(std::io::Error::from(kind));
    Error::Generic {
        store: "Failing",
        source,
    }
}

impl fmt::Display for FailingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failing:")
    }
}

// The trait's methods are written out as async_trait expands them, which spares a dependency.
type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl ObjectStore for FailingStore {
    fn put_opts<'a: 't, 'b: 't, 't>(
        &'a self,
        location: &'b Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Answer<'t, PutResult>
    where
        Self: 't,
    {
        Box::pin(async move {
            match self.fault() {
                Fault::None => {}
                Fault::AnswerLost => {
                    self.inner.put_opts(location, payload, opts).await?;
                    return Err(generic(std::io::ErrorKind::ConnectionReset));
                }
                Fault::FalseConflict => {
                    let (path, source) = (location.to_string(), "409 Conflict".into());
                    return Err(Error::AlreadyExists { path, source });
                }
                Fault::Unavailable => return Err(generic(std::io::ErrorKind::TimedOut)),
                Fault::Full => return Err(generic(std::io::ErrorKind::StorageFull)),
                Fault::Short => {
                    let bytes = Bytes::from(payload);
                    let half = PutPayload::from(bytes.slice(..bytes.len() / 2));
                    return self.inner.put_opts(location, half, opts).await;
                }
                Fault::IgnoresCondition => opts.mode = PutMode::Overwrite,
            }
            self.inner.put_opts(location, payload, opts).await
        })
    }

    fn put_multipart_opts<'a: 't, 'b: 't, 't>(
        &'a self,
        location: &'b Path,
        opts: PutMultipartOptions,
    ) -> Answer<'t, Box<dyn MultipartUpload>>
    where
        Self: 't,
    {
        Box::pin(async move {
            let inner = self.inner.put_multipart_opts(location, opts).await?;
            let fault = self.fault();
            Ok(Box::new(FailingUpload {
                inner,
                fault,
                parts: 0,
            }) as Box<dyn MultipartUpload>)
        })
    }

    fn get_opts<'a: 't, 'b: 't, 't>(
        &'a self,
        location: &'b Path,
        options: GetOptions,
    ) -> Answer<'t, GetResult>
    where
        Self: 't,
    {
        Box::pin(async move {
            let failing =
                self.reads_unavailable
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if failing.is_ok() {
                return Err(generic(std::io::ErrorKind::ConnectionReset));
            }
            if !options.head {
                self.gets.fetch_add(1, Ordering::SeqCst);
            }
            self.inner.get_opts(location, options).await
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_delimiter<'a: 't, 'b: 't, 't>(
        &'a self,
        prefix: Option<&'b Path>,
    ) -> Answer<'t, ListResult>
    where
        Self: 't,
    {
        self.inner.list_with_delimiter(prefix)
    }

    fn copy_opts<'a: 't, 'b: 't, 'c: 't, 't>(
        &'a self,
        from: &'b Path,
        to: &'c Path,
        options: CopyOptions,
    ) -> Answer<'t, ()>
    where
        Self: 't,
    {
        self.inner.copy_opts(from, to, options)
    }
}

/// Takes its first part and then fails.
#[derive(Debug)]
struct FailingUpload {
    inner: Box<dyn MultipartUpload>,
    fault: Fault,
    parts: u32,
}

impl MultipartUpload for FailingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts += 1;
        match self.fault {
            Fault::Full if self.parts > 1 => {
                Box::pin(async { Err(generic(std::io::ErrorKind::StorageFull)) })
            }
            Fault::Unavailable if self.parts > 1 => {
                Box::pin(async { Err(generic(std::io::ErrorKind::TimedOut)) })
            }
            _ => self.inner.put_part(data),
        }
    }

    fn complete<'a: 't, 't>(&'a mut self) -> Answer<'t, PutResult>
    where
        Self: 't,
    {
        self.inner.complete()
    }

    fn abort<'a: 't, 't>(&'a mut self) -> Answer<'t, ()>
    where
        Self: 't,
    {
        self.inner.abort()
    }
}
