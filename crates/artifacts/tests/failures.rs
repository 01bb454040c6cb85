//! What happens when the store misbehaves: answers lost, false conflicts, full
//! disks, ignored conditions, damaged objects.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use quarry_artifacts::{ArtifactError, Created, Store, layout, publish_checkpoint};
use support::{FAST, FailingStore, Fault};

#[tokio::test]
async fn a_lost_answer_is_resolved_by_reading_back() {
    let backend = FailingStore::new(Fault::AnswerLost, 1);
    let created = backend
        .store()
        .create("log/1", "mine".into())
        .await
        .unwrap();
    assert_eq!(created, Created::Yes);
    assert_eq!(
        backend.attempts.load(Ordering::SeqCst),
        1,
        "the write was sent twice"
    );
}

#[tokio::test]
async fn a_lost_answer_to_the_loser_is_exists() {
    let backend = FailingStore::new(Fault::Unavailable, 1);
    backend.damage("log/1", b"theirs").await;
    let created = backend
        .store()
        .create("log/1", "mine".into())
        .await
        .unwrap();
    assert_eq!(created, Created::Exists);
}

#[tokio::test]
async fn a_conflict_with_nothing_there_is_tried_again() {
    let backend = FailingStore::new(Fault::FalseConflict, 2);
    let created = backend
        .store()
        .create("log/1", "mine".into())
        .await
        .unwrap();
    assert_eq!(created, Created::Yes);
    assert_eq!(backend.attempts.load(Ordering::SeqCst), 3);

    let backend = FailingStore::new(Fault::FalseConflict, u32::MAX);
    let error = backend
        .store()
        .create("log/1", "mine".into())
        .await
        .unwrap_err();
    assert!(
        matches!(error, ArtifactError::Unavailable { .. }),
        "{error}"
    );
    assert_eq!(backend.attempts.load(Ordering::SeqCst), FAST.attempts);
}

#[tokio::test]
async fn a_checkpoint_that_came_short_has_no_manifest_and_is_completed_later() {
    let work = tempfile::tempdir().unwrap();
    std::fs::write(work.path().join("model.safetensors"), "weights").unwrap();
    std::fs::create_dir(work.path().join("trainer")).unwrap();
    let state = work.path().join("trainer/rng");
    std::fs::write(&state, "generation 1").unwrap();
    let backend = FailingStore::new(Fault::Short, 1);
    let store = backend.store();
    let publish = async || publish_checkpoint(&store, 25, work.path(), Default::default()).await;
    let error = publish().await.unwrap_err();
    let is_short = matches!(&error, ArtifactError::Mismatch { what: "size", .. });
    assert!(is_short, "{error}");
    let left = store
        .list(layout::checkpoints_folder(), None)
        .await
        .unwrap();
    assert!(
        left.iter()
            .all(|(path, _)| !path.ends_with(layout::MANIFEST)),
        "{left:?}"
    );
    // Meanwhile the trainer, which waits at this step, has switched.
    std::fs::write(&state, "generation 2").unwrap();
    let manifest = publish().await.unwrap();
    for object in manifest.files.values() {
        store.get(object).await.unwrap();
    }
}

#[tokio::test]
async fn an_outage_is_ridden_out_but_not_forever() {
    let backend = FailingStore::new(Fault::Unavailable, 2);
    let store = backend.store();
    assert_eq!(store.create("a", "x".into()).await.unwrap(), Created::Yes);
    backend.reads_unavailable.store(2, Ordering::SeqCst);
    assert_eq!(store.get_raw("a").await.unwrap().unwrap(), "x");

    backend.reads_unavailable.store(u32::MAX, Ordering::SeqCst);
    let error = store.get_raw("a").await.unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("failing:"),
        "{error}"
    );
    assert_eq!(
        u32::MAX - backend.reads_unavailable.load(Ordering::SeqCst),
        FAST.attempts
    );
}

#[tokio::test]
async fn a_full_disk_is_told_at_once() {
    let backend = FailingStore::new(Fault::Full, u32::MAX);
    let store = backend.store();
    let error = store.create("a", "x".into()).await.unwrap_err();
    assert!(matches!(error, ArtifactError::NoSpace { .. }), "{error}");
    assert_eq!(
        backend.attempts.load(Ordering::SeqCst),
        1,
        "a full disk was retried"
    );
    let large = Bytes::from(vec![1; 40 << 20]);
    let error = store.put_content("f", "s", "bin", large).await.unwrap_err();
    assert!(matches!(error, ArtifactError::NoSpace { .. }), "{error}");
    assert_eq!(
        store.list("", None).await.unwrap(),
        [],
        "part of an upload is visible"
    );
}

#[tokio::test]
async fn an_interrupted_upload_is_sent_again_and_never_seen_in_part() {
    let large = Bytes::from(vec![1; 40 << 20]);
    let backend = FailingStore::new(Fault::Unavailable, 1);
    let store = backend.store();
    let object = store
        .put_content("f", "s", "bin", large.clone())
        .await
        .unwrap();
    assert!(store.get(&object).await.unwrap() == large);

    let backend = FailingStore::new(Fault::Unavailable, u32::MAX);
    let store = backend.store();
    assert!(
        store
            .put_content("f", "s", "bin", large)
            .await
            .unwrap_err()
            .is_retryable()
    );
    assert_eq!(store.list("", None).await.unwrap(), []);
}

#[tokio::test]
async fn a_store_that_ignores_the_condition_is_refused() {
    let backend = FailingStore::new(Fault::IgnoresCondition, u32::MAX);
    let error = backend.store().probe_create_if_absent().await.unwrap_err();
    assert!(
        matches!(error, ArtifactError::Unsupported { .. }),
        "{error}"
    );
    assert_eq!(
        backend.store().list("", None).await.unwrap(),
        [],
        "the probe left something"
    );
}

#[tokio::test]
async fn damage_is_found_whatever_its_size() {
    let backend = FailingStore::new(Fault::None, 0);
    let store = backend.store();
    let object = store
        .put_content("f", "s", "bin", "content".into())
        .await
        .unwrap();
    backend.damage(&object.path, b"con").await;
    let error = store.get(&object).await.unwrap_err().to_string();
    assert!(
        error.contains("size 3") && error.contains("says 7") && error.contains(&object.path),
        "{error}"
    );
    backend.damage(&object.path, b"Content").await;
    let error = store.get(&object).await.unwrap_err().to_string();
    assert!(
        error.contains("sha256") && error.contains(object.sha256.as_str()),
        "{error}"
    );
}

#[tokio::test]
async fn an_object_that_came_short_is_put_right_without_being_deleted() {
    let backend = FailingStore::new(Fault::None, 0);
    let store = backend.store();
    let write = || store.put_content("f", "s", "bin", "content".into());
    let object = write().await.unwrap();
    backend.damage(&object.path, b"con").await;
    assert_eq!(write().await.unwrap(), object);
    assert_eq!(store.get(&object).await.unwrap(), "content");
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("file");
    std::fs::write(&local, "content").unwrap();
    backend.damage(&object.path, b"").await;
    let again = store.put_file("f", "s", "bin", &local).await.unwrap();
    assert_eq!(again, object);
    assert_eq!(store.get(&object).await.unwrap(), "content");
}

/// Every operation must run inside a spawned task.
#[test]
fn futures_are_send() {
    fn send<T: Send>(_: T) {}
    let backend = FailingStore::new(Fault::None, 0);
    let store: Store = backend.store();
    let folder = tempfile::tempdir().unwrap();
    let cache = quarry_artifacts::Cache::new(folder.path(), 1).unwrap();
    let object =
        quarry_artifacts::ObjectRef::new("a", 0, quarry_artifacts::Digest::of(b"")).unwrap();
    send(store.get(&object));
    send(store.create("a", Bytes::new()));
    send(store.put_file("a", "b", "c", folder.path()));
    send(store.put_file_at("a", folder.path()));
    send(store.list("", None));
    send(cache.fetch(&store, &object));
    send(quarry_artifacts::publish_checkpoint(
        &store,
        0,
        folder.path(),
        Default::default(),
    ));
    let all = quarry_artifacts::CheckpointFiles::All;
    send(quarry_artifacts::fetch_checkpoint(
        &store,
        &cache,
        "a",
        all,
        folder.path(),
    ));
}
