//! What lies in the simulated store, and who is told of each change to it.
//!
//! Every effect is whole and takes no time; what goes wrong on the way to it is
//! [`crate::client`]'s.

use crate::audit::Audit;
use crate::mutation::Bug;
use crate::world::World;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    GetOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutResult,
    Result,
};
use std::sync::Arc;

/// The store as it is, seen from above.
pub struct Site {
    world: Arc<World>,
    objects: InMemory,
    pub audit: Arc<Audit>,
}

/// Memory answers at once.
fn at_once<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("memory never waits")
}

impl Site {
    pub fn new(world: Arc<World>, audit: Arc<Audit>) -> Arc<Self> {
        let objects = InMemory::new();
        Arc::new(Self {
            world,
            objects,
            audit,
        })
    }

    /// Writes the first `landing` of `bytes`.
    pub fn put(
        &self,
        by: &str,
        path: &Path,
        bytes: &Bytes,
        landing: usize,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        let is_record = path.as_ref().starts_with("log/");
        if self.world.bug == Some(Bug::SkippedFence) && is_record {
            options.mode = PutMode::Overwrite;
        }
        let landed = bytes.slice(..landing);
        let answer = at_once(self.objects.put_opts(path, landed.clone().into(), options));
        let result = if answer.is_ok() { "put" } else { "found" };
        self.world.note(format_args!("{by} {result} {path}"));
        if is_record && answer.is_err() {
            self.audit.fenced();
        }
        if answer.is_ok() {
            self.audit.written(path.as_ref(), landed, bytes.len());
        }
        answer
    }

    pub fn get(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        at_once(self.objects.get_opts(path, options))
    }

    pub fn delete(&self, by: &str, path: &Path) -> Result<()> {
        let answer = at_once(self.objects.delete(path));
        self.world.note(format_args!("{by} delete {path}"));
        self.audit.deleted(path.as_ref());
        answer
    }

    pub fn list(&self, prefix: Option<&Path>) -> Vec<Result<ObjectMeta>> {
        at_once(self.objects.list(prefix).collect())
    }
}
