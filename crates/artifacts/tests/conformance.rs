//! What every backend must do. Runs on memory, a local folder, and S3: the
//! address in `QUARRY_TEST_S3`, or a `moto_server` found on the path.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use futures::future::join_all;
use quarry_artifacts::{
    ArtifactError, Cache, Created, Digest, ObjectRef, Store, delete_folder, layout,
};
use support::s3_server::S3Server;

/// The suite; `store` must be empty.
async fn conforms(store: &Store, races: usize) {
    store.probe_create_if_absent().await.unwrap();
    assert_eq!(
        store.list("", None).await.unwrap(),
        [],
        "the probe left something behind"
    );
    create_has_one_winner(store, races).await;
    reads_and_lists(store).await;
    contents_are_addressed_and_verified(store).await;
    large_files_pass_in_parts(store).await;
}

async fn create_has_one_winner(store: &Store, races: usize) {
    for round in 0..races {
        let path = layout::log_record(round as u64 + 1);
        let writers = (0..16).map(|writer| {
            let (store, path) = (store.clone(), path.clone());
            tokio::spawn(
                async move { store.create(&path, format!("writer {writer}").into()).await },
            )
        });
        let outcomes: Vec<_> = join_all(writers)
            .await
            .into_iter()
            .map(|o| o.unwrap().unwrap())
            .collect();
        let winners: Vec<_> = (0..16).filter(|&w| outcomes[w] == Created::Yes).collect();
        assert_eq!(winners.len(), 1, "round {round}: {outcomes:?}");
        let found = store.get_raw(&path).await.unwrap().unwrap();
        assert_eq!(found, format!("writer {}", winners[0]));
    }
}

async fn reads_and_lists(store: &Store) {
    assert_eq!(store.get_raw("none/such").await.unwrap(), None);
    assert_eq!(store.head("none/such").await.unwrap(), None);
    assert_eq!(store.list("none", None).await.unwrap(), []);
    store.delete("none/such").await.unwrap();
    for (path, size) in [
        ("list/b", 2),
        ("list/a", 1),
        ("list/sub/c", 3),
        ("listing", 4),
    ] {
        store
            .create(path, Bytes::from(vec![7; size]))
            .await
            .unwrap();
    }
    let all = [
        ("list/a".to_string(), 1),
        ("list/b".to_string(), 2),
        ("list/sub/c".to_string(), 3),
    ];
    assert_eq!(store.list("list", None).await.unwrap(), all);
    assert_eq!(store.list("list", Some("list/a")).await.unwrap(), all[1..]);
    assert_eq!(store.list("list", Some("list/sub/c")).await.unwrap(), []);
    assert_eq!(store.head("list/b").await.unwrap(), Some(2));
    delete_folder(store, "list").await.unwrap();
    assert_eq!(store.list("list", None).await.unwrap(), []);
    assert_eq!(store.head("listing").await.unwrap(), Some(4));
}

async fn contents_are_addressed_and_verified(store: &Store) {
    let bytes = Bytes::from_static(b"abc");
    let object = store
        .put_content("generations/000001/index", "p", "bin", bytes.clone())
        .await
        .unwrap();
    assert_eq!(object.path, "generations/000001/index/p-ba7816bf8f01.bin");
    let again = store
        .put_content("generations/000001/index", "p", "bin", bytes.clone())
        .await
        .unwrap();
    assert_eq!(again, object);
    assert_eq!(store.get(&object).await.unwrap(), bytes);
    let empty = store
        .put_content("empty", "e", "bin", Bytes::new())
        .await
        .unwrap();
    assert_eq!(store.get(&empty).await.unwrap(), Bytes::new());

    let wrong_hash = ObjectRef {
        sha256: Digest::of(b"abd"),
        ..object.clone()
    };
    let error = store.get(&wrong_hash).await.unwrap_err();
    assert!(
        matches!(error, ArtifactError::Mismatch { what: "sha256", .. }),
        "{error}"
    );
    let wrong_size = ObjectRef {
        size: 4,
        ..object.clone()
    };
    let error = store.get(&wrong_size).await.unwrap_err();
    assert!(
        matches!(error, ArtifactError::Mismatch { what: "size", .. }),
        "{error}"
    );
    let absent = ObjectRef {
        path: "generations/none".into(),
        ..object
    };
    let error = store.get(&absent).await.unwrap_err();
    assert!(
        error.is_not_found() && error.to_string().contains("generations/none"),
        "{error}"
    );
    for path in ["../escape", "/etc/passwd", "a/../../b", ".hidden", "a b"] {
        let error = store.get_raw(path).await.unwrap_err();
        assert!(matches!(error, ArtifactError::UnsafePath { .. }), "{error}");
        assert!(store.create(path, Bytes::new()).await.is_err());
        assert!(store.delete(path).await.is_err());
    }
}

async fn large_files_pass_in_parts(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("large");
    let content: Vec<u8> = (0..(33_u32 << 20) / 4)
        .flat_map(u32::to_le_bytes)
        .chain([1, 2, 3])
        .collect();
    std::fs::write(&local, &content).unwrap();
    let object = store.put_file("large", "l", "bin", &local).await.unwrap();
    assert_eq!(
        (object.size, &object.sha256),
        (content.len() as u64, &Digest::of(&content))
    );
    assert_eq!(
        store.put_file("large", "l", "bin", &local).await.unwrap(),
        object
    );
    assert_eq!(
        store
            .put_content("large", "l", "bin", content.clone().into())
            .await
            .unwrap(),
        object
    );
    assert!(store.get(&object).await.unwrap() == content);
    let cache = Cache::new(folder.path().join("cache"), 1 << 30).unwrap();
    let file = cache.fetch(store, &object).await.unwrap();
    assert!(std::fs::read(file.path()).unwrap() == content);

    let exact = store.put_file_at("exact/model", &local).await.unwrap();
    assert_eq!(
        store.put_file_at("exact/model", &local).await.unwrap(),
        exact
    );
    std::fs::write(&local, &content[1..]).unwrap();
    let error = store.put_file_at("exact/model", &local).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Exists { .. }), "{error}");
    assert!(
        store.get(&exact).await.unwrap() == content,
        "an object was overwritten"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_conforms() {
    conforms(&Store::open("memory:").await.unwrap(), 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("a store");
    let missing = Store::open_existing(plain.to_str().unwrap())
        .await
        .unwrap_err();
    assert!(
        matches!(missing, ArtifactError::Address { .. }),
        "{missing}"
    );
    let store = Store::open(plain.to_str().unwrap()).await.unwrap();
    assert!(store.url().starts_with("file:///") && store.url().ends_with("a%20store"));
    conforms(&store, 20).await;
    let same = Store::open(store.url()).await.unwrap();
    assert_eq!(
        same.list("", None).await.unwrap(),
        store.list("", None).await.unwrap()
    );
}

#[tokio::test]
async fn addresses_nobody_can_open_are_refused() {
    for url in ["", "ftp://host/x", "file://host/x", "s3:", "http://host/x"] {
        let error = Store::open(url).await.unwrap_err();
        assert!(
            matches!(error, ArtifactError::Address { .. }),
            "{url}: {error}"
        );
    }
}

#[test]
fn s3_conforms() {
    if let Ok(url) = std::env::var("QUARRY_TEST_S3") {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(async {
            let store = Store::open(&url).await.unwrap();
            conforms(&store, 20).await;
            for (path, _) in store.list("", None).await.unwrap() {
                store.delete(&path).await.unwrap();
            }
        });
    }
    match S3Server::moto() {
        Some(moto) => moto.test("s3_conforms", "QUARRY_TEST_S3"),
        None => eprintln!(
            "SKIPPED s3_conforms: no QUARRY_TEST_S3 and no working moto_server on the path"
        ),
    }
}
