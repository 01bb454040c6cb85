//! The store as one host reaches it: shared memory, and a way there that can be cut.

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use quarry_artifacts::{Retry, Store};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a request to a store that is cut off waits.
const LIMIT: Duration = Duration::from_secs(2);
/// Pauses come with a jitter of their own, which would not be the seed's.
const AT_ONCE: Retry = Retry {
    attempts: 2,
    first_pause: Duration::ZERO,
    longest_pause: Duration::ZERO,
};

/// See the module.
#[derive(Debug, Clone)]
pub struct Reach {
    objects: Arc<InMemory>,
    cut: Arc<AtomicBool>,
}

impl Reach {
    /// A way to `objects` that is open unless `cut`.
    pub fn open(objects: &Arc<InMemory>, cut: &Arc<AtomicBool>) -> Store {
        let reach = Self {
            objects: Arc::clone(objects),
            cut: Arc::clone(cut),
        };
        Store::over(Arc::new(reach), "simulated:", AT_ONCE)
    }

    async fn pass(&self) -> Result<()> {
        if !self.cut.load(Ordering::Relaxed) {
            return Ok(());
        }
        tokio::time::sleep(LIMIT).await;
        Err(Error::Generic {
            store: "simulated",
            source: "timed out".into(),
        })
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated:")
    }
}

fn unused<T>(operation: &str) -> Result<T> {
    Err(Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: "simulated".to_owned(),
    })
}

// The trait's methods are written out as async_trait expands them, which spares a dependency.
type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl ObjectStore for Reach {
    fn put_opts<'a: 't, 'b: 't, 't>(
        &'a self,
        location: &'b Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Answer<'t, PutResult>
    where
        Self: 't,
    {
        Box::pin(async move {
            self.pass().await?;
            self.objects.put_opts(location, payload, options).await
        })
    }

    fn put_multipart_opts<'a: 't, 'b: 't, 't>(
        &'a self,
        _: &'b Path,
        _: PutMultipartOptions,
    ) -> Answer<'t, Box<dyn MultipartUpload>>
    where
        Self: 't,
    {
        Box::pin(async { unused("put_multipart") })
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
            self.pass().await?;
            self.objects.get_opts(location, options).await
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (reach, listed) = (self.clone(), self.objects.list(prefix));
        let checked = futures::stream::once(async move {
            match reach.pass().await {
                Ok(()) => listed,
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            }
        });
        checked.flatten().boxed()
    }

    fn list_with_delimiter<'a: 't, 'b: 't, 't>(
        &'a self,
        _: Option<&'b Path>,
    ) -> Answer<'t, ListResult>
    where
        Self: 't,
    {
        Box::pin(async { unused("list_with_delimiter") })
    }

    fn copy_opts<'a: 't, 'b: 't, 'c: 't, 't>(
        &'a self,
        _: &'b Path,
        _: &'c Path,
        _: CopyOptions,
    ) -> Answer<'t, ()>
    where
        Self: 't,
    {
        Box::pin(async { unused("copy") })
    }
}
