//! One process's connection to the store, and everything that goes wrong on it.
//!
//! A request outlives who made it: once sent it may take effect whether the
//! sender waits, is frozen or is dead.

use crate::mutation;
use crate::process::{Process, Reach};
use crate::site::Site;
use crate::world::World;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use quarry_artifacts::{Retry, Store};
use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How long a request to a store that is cut off waits, in milliseconds.
const TIMEOUT_MS: u64 = 4_000;
/// Pauses come with a jitter of their own, which would not be the seed's.
const AT_ONCE: Retry = Retry {
    attempts: 6,
    first_pause: Duration::ZERO,
    longest_pause: Duration::ZERO,
};

/// See the module.
#[derive(Clone)]
pub struct Client {
    world: Arc<World>,
    process: Arc<Process>,
    site: Arc<Site>,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    /// Dropped unseen.
    Before,
    /// Done, and the answer lost.
    After,
    /// Not done, and answered as if something were there.
    Conflict,
    /// Done long after the sender gave up.
    Late,
}

impl Client {
    /// A store as `process` sees it.
    pub fn open(world: &Arc<World>, process: &Arc<Process>, site: &Arc<Site>) -> Store {
        let client = Self {
            world: Arc::clone(world),
            process: Arc::clone(process),
            site: Arc::clone(site),
        };
        Store::over(Arc::new(client), "simulated:", AT_ONCE)
    }

    fn fate(&self, writes: bool) -> Fate {
        let weather = &self.world.weather;
        if self.world.fault(weather.store_before) {
            return Fate::Before;
        }
        if self.world.fault(weather.store_after) {
            return Fate::After;
        }
        if writes && self.world.fault(weather.store_late) {
            return Fate::Late;
        }
        Fate::Fine
    }

    /// Sends a request and waits for what comes of it.
    async fn request<T: Send + 'static>(
        &self,
        fate: Fate,
        effect: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.process.awake().await;
        if self.process.is_cut_off(Reach::Store) {
            sleep(Duration::from_millis(TIMEOUT_MS)).await;
            return Err(lost(ErrorKind::TimedOut));
        }
        let slow = self.world.fault(self.world.weather.store_slow);
        let way = if slow { 500..6_000 } else { 1..25 };
        let there = self.world.between(way.clone());
        let back = self.world.between(way);
        let delay = match fate {
            Fate::Late => self.world.between(2_000..40_000),
            _ => there,
        };
        let (lands, server) = (!matches!(fate, Fate::Before | Fate::Conflict), self.clone());
        let served = tokio::spawn(async move {
            sleep(Duration::from_millis(delay)).await;
            lands.then(|| effect(&server))
        });
        let answer = match fate {
            Fate::Late => {
                sleep(Duration::from_millis(there)).await;
                None
            }
            _ => served.await.map_err(|error| Error::Generic {
                store: "simulated",
                source: error.into(),
            })?,
        };
        sleep(Duration::from_millis(back)).await;
        // Between two requests is where a zombie is most dangerous.
        if self.world.fault(self.world.weather.store_freezes) {
            let ms = self.world.between(2_000..30_000);
            let name = &self.process.name;
            self.world
                .note(format_args!("{name} freezes at the store for {ms} ms"));
            self.process.freeze(ms);
        }
        self.process.awake().await;
        match (fate, answer) {
            (Fate::Fine, Some(answer)) => answer,
            (Fate::Conflict, _) => Err(Error::AlreadyExists {
                path: String::new(),
                source: "409 Conflict".into(),
            }),
            (Fate::Late, _) => Err(lost(ErrorKind::TimedOut)),
            _ => Err(lost(ErrorKind::ConnectionReset)),
        }
    }

    async fn put(&self, path: Path, bytes: Bytes, options: PutOptions) -> Result<PutResult> {
        let weather = &self.world.weather;
        // Documents and records are small, and written whole or not at all; what
        // replaces something is moved into its place.
        let name = path.as_ref();
        let is_bulk = !name.starts_with("log/") && !name.ends_with("manifest.json");
        let creates = matches!(options.mode, PutMode::Create);
        let torn = is_bulk && creates && self.world.fault(weather.store_torn);
        let landing = match torn {
            true => usize::try_from(self.world.between(0..bytes.len() as u64)).unwrap_or(0),
            false => bytes.len(),
        };
        let fate = match creates && self.world.fault(weather.store_conflict) {
            true => Fate::Conflict,
            false => self.fate(true),
        };
        self.request(fate, move |client| {
            let by = &client.process.name;
            client.site.put(by, &path, &bytes, landing, options)
        })
        .await
    }

    async fn delete(&self, path: Path) -> Result<Path> {
        let fate = self.fate(true);
        self.request(fate, move |client| {
            client.site.delete(&client.process.name, &path)?;
            Ok(path)
        })
        .await
    }

    async fn get(&self, path: Path, options: GetOptions) -> Result<GetResult> {
        let fate = self.fate(false);
        let head = options.head;
        self.request(fate, move |client| {
            let mut found = client.site.get(&path, options)?;
            if head && let Some(size) = mutation::believed_size(&client.world, client, path) {
                found.meta.size = size;
            }
            Ok(found)
        })
        .await
    }

    async fn entries(&self, prefix: Option<Path>) -> Result<Vec<Result<ObjectMeta>>> {
        let fate = self.fate(false);
        self.request(fate, move |client| {
            let prefix = prefix.map(|p| mutation::listed_folder(&client.world, p));
            Ok(client.site.list(prefix.as_ref()))
        })
        .await
    }

    /// Whether a coordinator uses this connection.
    pub fn is_coordinator(&self) -> bool {
        self.process.name.starts_with("coordinator")
    }

    /// The size of `path` if all that was sent had landed.
    pub fn whole_size(&self, path: &Path) -> Option<u64> {
        self.site.audit.whole_size(path.as_ref())
    }
}

fn lost(kind: ErrorKind) -> Error {
    let source = Box::new(std::io::Error::from(kind));
    let store = "simulated";
    Error::Generic { store, source }
}

// The trait's methods are written out as async_trait expands them, which spares a dependency.
type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl ObjectStore for Client {
    fn put_opts<'a: 't, 'b: 't, 't>(
        &'a self,
        location: &'b Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Answer<'t, PutResult>
    where
        Self: 't,
    {
        Box::pin(self.put(location.clone(), payload.into(), opts))
    }

    fn put_multipart_opts<'a: 't, 'b: 't, 't>(
        &'a self,
        _: &'b Path,
        _: PutMultipartOptions,
    ) -> Answer<'t, Box<dyn MultipartUpload>>
    where
        Self: 't,
    {
        Box::pin(async {
            Err(Error::NotImplemented {
                operation: "put_multipart".into(),
                implementer: "simulated".into(),
            })
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
        Box::pin(self.get(location.clone(), options))
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let client = self.clone();
        let deleted = locations.and_then(move |path| {
            let client = client.clone();
            async move { client.delete(path).await }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (client, prefix) = (self.clone(), prefix.cloned());
        let entries = async move { client.entries(prefix).await.map(stream::iter) };
        stream::once(entries).try_flatten().boxed()
    }

    fn list_with_delimiter<'a: 't, 'b: 't, 't>(
        &'a self,
        _: Option<&'b Path>,
    ) -> Answer<'t, ListResult>
    where
        Self: 't,
    {
        Box::pin(async {
            Err(Error::NotImplemented {
                operation: "list_with_delimiter".into(),
                implementer: "simulated".into(),
            })
        })
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
        Box::pin(async {
            Err(Error::NotImplemented {
                operation: "copy".into(),
                implementer: "simulated".into(),
            })
        })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated:")
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store as {} sees it", self.process.name)
    }
}
