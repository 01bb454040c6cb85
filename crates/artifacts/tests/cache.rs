//! The local cache: bounds, holders, sharing, damage and restarts.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::future::join_all;
use quarry_artifacts::{ArtifactError, Cache, ObjectRef, Store};
use support::{FailingStore, Fault};

async fn objects(store: &Store, count: u8) -> Vec<ObjectRef> {
    let put = (0..count).map(|i| store.put_content("o", "o", "bin", Bytes::from(vec![i; 100])));
    join_all(put)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

fn files(cache: &Cache) -> usize {
    let names = std::fs::read_dir(cache.folder()).unwrap();
    names
        .filter(|item| item.as_ref().unwrap().file_name() != "lock")
        .count()
}

fn backend() -> (Arc<FailingStore>, Store) {
    let backend = FailingStore::new(Fault::None, 0);
    let store = backend.store();
    (backend, store)
}

#[tokio::test]
async fn the_least_recently_used_file_that_nobody_holds_goes_first() {
    let (_, store) = backend();
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), 300).unwrap();
    let objects = objects(&store, 6).await;
    let held = cache.fetch(&store, &objects[0]).await.unwrap();
    let path = |i: usize| cache.folder().join(objects[i].sha256.as_str());
    for i in [1, 2, 1, 3] {
        cache.fetch(&store, &objects[i]).await.unwrap();
    }
    assert_eq!(
        [0, 1, 2, 3].map(|i| path(i).exists()),
        [true, true, false, true]
    );
    assert_eq!((cache.bytes(), files(&cache)), (300, 3));
    assert_eq!(std::fs::read(held.path()).unwrap(), vec![0; 100]);

    let held: Vec<_> = join_all(objects.iter().map(|o| cache.fetch(&store, o))).await;
    assert_eq!(
        (cache.bytes(), files(&cache)),
        (600, 6),
        "files in use were evicted"
    );
    drop(held);
    let (_, other) = backend();
    let next = other
        .put_content("o", "o", "bin", Bytes::from(vec![9; 100]))
        .await
        .unwrap();
    cache.fetch(&other, &next).await.unwrap();
    // The first guard still lives, so its file does too.
    assert_eq!((cache.bytes(), files(&cache)), (300, 3));
    assert!(path(0).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_fetches_of_one_object_are_one_download() {
    let (backend, store) = backend();
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), 1000).unwrap();
    let object = objects(&store, 1).await.remove(0);
    backend.gets.store(0, Ordering::SeqCst);
    let fetches = (0..16).map(|_| {
        let (cache, store, object) = (cache.clone(), store.clone(), object.clone());
        tokio::spawn(async move { cache.fetch(&store, &object).await.unwrap() })
    });
    let files: Vec<_> = join_all(fetches)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(files.iter().all(|f| f.path() == files[0].path()));
    assert_eq!(backend.gets.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn damaged_or_interrupted_downloads_leave_nothing() {
    let (backend, store) = backend();
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), 1000).unwrap();
    let object = objects(&store, 1).await.remove(0);
    let damaged: &'static [u8] = &[9; 100];
    backend.damage(&object.path, damaged).await;
    let error = cache.fetch(&store, &object).await.unwrap_err();
    assert!(
        matches!(error, ArtifactError::Mismatch { what: "sha256", .. }),
        "{error}"
    );
    backend.reads_unavailable.store(u32::MAX, Ordering::SeqCst);
    assert!(cache.fetch(&store, &object).await.is_err());
    assert_eq!((cache.bytes(), files(&cache)), (0, 0));
}

#[tokio::test]
async fn a_false_size_evicts_nothing() {
    let (_, store) = backend();
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), 300).unwrap();
    let objects = objects(&store, 2).await;
    cache.fetch(&store, &objects[0]).await.unwrap();
    let false_size = ObjectRef {
        size: u64::MAX,
        ..objects[1].clone()
    };
    let error = cache.fetch(&store, &false_size).await.unwrap_err();
    assert!(
        matches!(error, ArtifactError::Mismatch { what: "size", .. }),
        "{error}"
    );
    assert_eq!((cache.bytes(), files(&cache)), (100, 1));
}

#[tokio::test]
async fn a_new_process_takes_over_the_files_but_not_their_damage() {
    let (backend, store) = backend();
    let folder = tempfile::tempdir().unwrap();
    let objects = objects(&store, 2).await;
    let cache = Cache::new(folder.path(), 1000).unwrap();
    let other = Cache::new(folder.path(), 1000).unwrap();
    assert_ne!(cache.folder(), other.folder(), "two users share one slot");
    let good = cache
        .fetch(&store, &objects[0])
        .await
        .unwrap()
        .path()
        .to_path_buf();
    let bad = cache
        .fetch(&store, &objects[1])
        .await
        .unwrap()
        .path()
        .to_path_buf();
    std::fs::write(cache.folder().join("partial-x"), b"half").unwrap();
    drop(cache);
    std::fs::write(&bad, vec![0; 100]).unwrap();

    backend.gets.store(0, Ordering::SeqCst);
    let cache = Cache::new(folder.path(), 1000).unwrap();
    assert_eq!(
        (cache.bytes(), files(&cache)),
        (200, 2),
        "the partial download was kept"
    );
    assert_eq!(cache.fetch(&store, &objects[0]).await.unwrap().path(), good);
    assert_eq!(backend.gets.load(Ordering::SeqCst), 0);
    let file = cache.fetch(&store, &objects[1]).await.unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), vec![1; 100]);
    assert_eq!(backend.gets.load(Ordering::SeqCst), 1);
    assert_eq!(cache.bytes(), 200);
}

#[tokio::test]
async fn a_local_stores_own_files_are_used_after_one_check() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store").to_str().unwrap())
        .await
        .unwrap();
    let cache = Cache::new(folder.path().join("cache"), 10).unwrap();
    let object = objects(&store, 1).await.remove(0);
    let path = store.local_folder().unwrap().join(&object.path);
    assert_eq!(cache.fetch(&store, &object).await.unwrap().path(), path);
    assert_eq!((cache.bytes(), files(&cache)), (0, 0));

    std::fs::write(&path, vec![7; 100]).unwrap();
    let fresh = Cache::new(folder.path().join("cache"), 10).unwrap();
    let error = fresh.fetch(&store, &object).await.unwrap_err();
    assert!(
        matches!(error, ArtifactError::Mismatch { what: "sha256", .. }),
        "{error}"
    );
    std::fs::write(&path, vec![7; 99]).unwrap();
    let error = cache.fetch(&store, &object).await.unwrap_err();
    assert!(
        matches!(error, ArtifactError::Mismatch { what: "size", .. }),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    assert!(
        cache
            .fetch(&store, &object)
            .await
            .unwrap_err()
            .is_not_found()
    );
}
