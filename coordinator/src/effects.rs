//! What the driver does in the store on behalf of the state, in the background.
//! Each job ends in the event that tells the state about it.

use crate::state::Event;
use futures::{FutureExt, StreamExt, stream};
use quarry_artifacts::{
    ArtifactError, CheckpointRef, GenerationManifest, ObjectRef, Result, Store, delete_folder,
    layout,
};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// Requests to the store at once.
const REQUESTS: usize = 32;
/// Pause before a deletion that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Checks that every object is in the store at its size, and writes the
/// manifest (law 2). One that is short is left to the worker that makes it again:
/// this coordinator may have been fenced, and a deletion of its would meet what was
/// written since.
pub async fn publish(
    store: Store,
    manifest: Box<GenerationManifest>,
    objects: Vec<ObjectRef>,
) -> Event {
    let generation = manifest.generation;
    let outcome = async {
        let paths = missing(&store, generation, objects).await?;
        if !paths.is_empty() {
            tracing::warn!(
                generation,
                objects = paths.len(),
                first = paths[0],
                "objects are missing or short"
            );
            return Ok(Event::ObjectsMissing { generation, paths });
        }
        let manifest = manifest.write(&store).await?;
        Ok(Event::ManifestWritten {
            generation,
            manifest,
        })
    };
    outcome.await.unwrap_or_else(|error: ArtifactError| {
        tracing::warn!(generation, %error, "cannot publish the generation yet");
        Event::PublicationFailed {
            generation,
            reason: error.to_string(),
        }
    })
}

/// Makes a panic of the publication its failure, so that it is tried again.
pub async fn or_failed(generation: u64, publication: impl Future<Output = Event>) -> Event {
    // Unwind safe: the publication owns all it uses, and the store takes whole writes.
    let outcome = AssertUnwindSafe(publication).catch_unwind().await;
    outcome.unwrap_or_else(|_| {
        tracing::error!(generation, "the publication panicked");
        let reason = "the publication panicked; see the coordinator's log".to_owned();
        Event::PublicationFailed { generation, reason }
    })
}

/// Paths of the objects of a generation that are absent or have another size. One
/// listing answers for a thousand objects; what it does not show as it should be is
/// looked for by name, so that a listing which lags behind what was written costs time
/// only. Nobody deletes what an open generation consists of.
async fn missing(store: &Store, generation: u64, objects: Vec<ObjectRef>) -> Result<Vec<String>> {
    let folder = layout::generation_folder(generation);
    let listed: HashMap<String, u64> = store.list(&folder, None).await?.into_iter().collect();
    let doubtful = objects
        .into_iter()
        .filter(|object| listed.get(&object.path) != Some(&object.size));
    let heads = stream::iter(doubtful).map(|object| async move {
        let found = store.head(&object.path).await?;
        Ok((object, found))
    });
    let mut heads = heads.buffered(REQUESTS);
    let mut paths = Vec::new();
    while let Some(head) = heads.next().await {
        let (object, found) = head?;
        if found != Some(object.size) {
            paths.push(object.path);
        }
    }
    Ok(paths)
}

/// Deletes everything of a retired or given-up generation but `keep`.
pub async fn collect_generation(store: Store, generation: u64, keep: Vec<String>) -> Event {
    let collect = || async {
        let folder = layout::generation_folder(generation);
        for (path, _) in store.list(&folder, None).await? {
            if !keep.contains(&path) {
                store.delete(&path).await?;
            }
        }
        Ok(())
    };
    until_done("generation", collect).await;
    Event::GenerationCollected { generation }
}

/// Deletes a retired checkpoint, its manifest first.
pub async fn collect_checkpoint(store: Store, checkpoint: CheckpointRef) -> Event {
    let folder = layout::checkpoint_folder(checkpoint.step, &checkpoint.digest);
    until_done("checkpoint", || delete_folder(&store, &folder)).await;
    Event::CheckpointCollected { checkpoint }
}

/// Deletions are never urgent: they are tried until they succeed.
async fn until_done<F: Future<Output = Result<()>>>(what: &str, mut attempt: impl FnMut() -> F) {
    while let Err(error) = attempt().await {
        tracing::warn!(what, %error, "cannot delete what is retired, trying again");
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_artifacts::Digest;

    #[tokio::test]
    async fn a_publication_that_panics_has_failed() {
        let event = or_failed(7, async { panic!("out of luck") }).await;
        let failed = matches!(event, Event::PublicationFailed { generation: 7, .. });
        assert!(failed, "{event:?}");
        let generation = 7;
        let done = Event::GenerationCollected { generation };
        assert_eq!(or_failed(7, async { done.clone() }).await, done);
    }

    #[tokio::test]
    async fn a_short_object_is_reported_and_left_where_it_is() {
        let store = Store::open("memory:").await.unwrap();
        let folder = layout::generation_folder(7);
        let path = |name| format!("{folder}/{name}");
        let object = |name| ObjectRef::new(path(name), 7, Digest::of(b"content")).unwrap();
        store.create(&path("short"), "con".into()).await.unwrap();
        store
            .create(&path("there"), "content".into())
            .await
            .unwrap();
        let objects = ["short", "there", "absent"].map(object).to_vec();
        let paths = missing(&store, 7, objects).await.unwrap();
        assert_eq!(paths, [path("short"), path("absent")]);
        assert_eq!(store.head(&path("short")).await.unwrap(), Some(3));
    }
}
