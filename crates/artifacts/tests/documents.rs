//! Checkpoints, corpora and the run's document: published last,
//! read back whole, refused when incomplete.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use quarry_artifacts::{
    Cache, CheckpointFiles, CheckpointManifest, CheckpointOrigin, CheckpointRef, CorpusLocation,
    Created, Digest, RunDocument, Store, fetch_checkpoint, fetch_corpus_file, layout,
    publish_checkpoint, publish_corpus,
};
use serde_json::json;

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|item| item.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

const MODEL: [(&str, &str); 3] = [
    ("model.safetensors", "weights"),
    ("config.json", "{}"),
    ("1_Pooling/config.json", "{\"p\":1}"),
];

#[tokio::test]
async fn a_checkpoint_returns_as_the_folder_it_was() {
    let work = tempfile::tempdir().unwrap();
    let local = work.path().join("local");
    write(&local, &MODEL);
    write(&local, &[("trainer/optimizer.safetensors", "moments")]);
    write(
        &local,
        &[
            (".gitattributes", "x"),
            ("pytorch_model.bin", "pickle"),
            ("a.pt", "pickle"),
        ],
    );
    let store = Store::open("memory:").await.unwrap();
    let origin = CheckpointOrigin {
        generation: Some(3),
        created_unix: 5,
        ..Default::default()
    };
    let manifest = publish_checkpoint(&store, 1234, &local, origin)
        .await
        .unwrap();
    let kept: Vec<_> = manifest.files.keys().map(String::as_str).collect();
    assert_eq!(
        kept,
        [
            "1_Pooling/config.json",
            "config.json",
            "model.safetensors",
            "trainer/optimizer.safetensors"
        ]
    );
    let path = manifest.reference().manifest;
    assert_eq!(
        path,
        format!(
            "checkpoints/00001234-{}/manifest.json",
            manifest.digest.short()
        )
    );
    assert_eq!(
        CheckpointManifest::read(&store, &path).await.unwrap(),
        manifest
    );

    let cache = Cache::new(work.path().join("cache"), 1 << 20).unwrap();
    let dest = work.path().join("fetched/model");
    let model = CheckpointFiles::Model;
    let folder = fetch_checkpoint(&store, &cache, &path, model, &dest)
        .await
        .unwrap();
    assert_eq!(
        names(&folder),
        ["1_Pooling", "config.json", "model.safetensors"]
    );
    for (name, content) in MODEL {
        assert_eq!(std::fs::read_to_string(folder.join(name)).unwrap(), content);
    }
    std::fs::remove_file(folder.join("config.json")).unwrap();
    std::fs::write(folder.join("config.json"), "[]").unwrap();
    let folder = fetch_checkpoint(&store, &cache, &path, CheckpointFiles::All, &dest)
        .await
        .unwrap();
    assert_eq!(
        std::fs::read_to_string(folder.join("config.json")).unwrap(),
        "{}"
    );
    assert!(folder.join("trainer/optimizer.safetensors").exists());
    assert_eq!(
        names(&work.path().join("fetched")),
        ["model"],
        "a partial folder was left"
    );
}

#[tokio::test]
async fn the_digest_names_the_model_and_not_the_trainers_state() {
    let work = tempfile::tempdir().unwrap();
    let store = Store::open("memory:").await.unwrap();
    let mut digests = Vec::new();
    for (i, extra) in [
        ("trainer/rng", "1"),
        ("trainer/rng", "2"),
        ("config.json", "{ }"),
    ]
    .into_iter()
    .enumerate()
    {
        let local = work.path().join(i.to_string());
        write(&local, &MODEL);
        write(&local, &[extra]);
        let manifest = publish_checkpoint(&store, i as u64, &local, Default::default())
            .await
            .unwrap();
        digests.push(manifest.digest);
    }
    assert_eq!(digests[0], digests[1]);
    assert_ne!(digests[0], digests[2]);
    let local = work.path().join("no model");
    write(&local, &[("trainer/rng", "1")]);
    assert!(
        publish_checkpoint(&store, 9, &local, Default::default())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_killed_publication_can_be_repeated_and_a_finished_one_stays() {
    let work = tempfile::tempdir().unwrap();
    write(work.path(), &MODEL);
    write(work.path(), &[("trainer/rng", "new")]);
    let store = Store::open("memory:").await.unwrap();
    let finished = publish_checkpoint(&store, 7, work.path(), Default::default())
        .await
        .unwrap();
    let path = finished.reference().manifest;
    // As after a kill: no manifest, one file of another attempt, one missing.
    store.delete(&path).await.unwrap();
    let folder = path.trim_end_matches("/manifest.json");
    for name in ["trainer/rng", "config.json"] {
        store.delete(&format!("{folder}/{name}")).await.unwrap();
    }
    store
        .create(&format!("{folder}/trainer/rng"), "old".into())
        .await
        .unwrap();
    assert!(
        CheckpointManifest::read(&store, &path)
            .await
            .unwrap_err()
            .is_not_found()
    );
    let repeated = publish_checkpoint(&store, 7, work.path(), Default::default())
        .await
        .unwrap();
    assert_eq!(repeated, finished);
    assert_eq!(
        store.get(&repeated.files["trainer/rng"]).await.unwrap(),
        "new"
    );

    write(work.path(), &[("trainer/rng", "later")]);
    let later = publish_checkpoint(&store, 7, work.path(), Default::default())
        .await
        .unwrap();
    assert_eq!(later, finished);
    assert_eq!(
        store.get(&finished.files["trainer/rng"]).await.unwrap(),
        "new"
    );
}

#[tokio::test]
async fn damaged_files_of_a_published_checkpoint_are_put_back() {
    let work = tempfile::tempdir().unwrap();
    write(work.path(), &MODEL);
    write(work.path(), &[("trainer/rng", "state")]);
    let store = Store::open("memory:").await.unwrap();
    let publish = async || publish_checkpoint(&store, 7, work.path(), Default::default()).await;
    let manifest = publish().await.unwrap();
    let damage = async |name: &str, bytes: &'static str| {
        let path = &manifest.files[name].path;
        store.delete(path).await.unwrap();
        store.create(path, bytes.into()).await.unwrap();
    };
    damage("model.safetensors", "Weights").await; // Of the same size.
    damage("config.json", "{").await;
    let gone = &manifest.files["1_Pooling/config.json"].path;
    store.delete(gone).await.unwrap();
    assert_eq!(publish().await.unwrap(), manifest);
    for object in manifest.files.values() {
        store.get(object).await.unwrap();
    }

    // Other bytes than the published ones are no replacement.
    damage("trainer/rng", "st").await;
    write(work.path(), &[("trainer/rng", "later")]);
    let error = publish().await.unwrap_err();
    assert!(error.to_string().contains("trainer/rng"), "{error}");
    let left = store.get_raw(&manifest.files["trainer/rng"].path).await;
    assert_eq!(left.unwrap().unwrap(), "st");
}

#[tokio::test]
async fn a_folder_without_a_manifest_is_completed_with_the_newer_state() {
    let work = tempfile::tempdir().unwrap();
    write(work.path(), &MODEL);
    write(work.path(), &[("trainer/rng", "generation 1")]);
    let store = Store::open("memory:").await.unwrap();
    let publish = async || publish_checkpoint(&store, 25, work.path(), Default::default()).await;
    let first = publish().await.unwrap();
    // As after a kill, or a file that came short: there is no manifest.
    let manifest = first.reference().manifest;
    store.delete(&manifest).await.unwrap();
    let short = &first.files["model.safetensors"].path;
    store.delete(short).await.unwrap();
    store.create(short, "W".into()).await.unwrap();
    // The trainer waited and switched: the same model, another state.
    write(work.path(), &[("trainer/rng", "generation 2")]);
    let second = publish().await.unwrap();
    assert_eq!(second.digest, first.digest);
    assert_eq!(
        CheckpointManifest::read(&store, &manifest).await.unwrap(),
        second
    );
    for object in second.files.values() {
        store.get(object).await.unwrap();
    }
    assert_ne!(second.files["trainer/rng"], first.files["trainer/rng"]);
    assert_eq!(
        second.files["model.safetensors"],
        first.files["model.safetensors"]
    );
}

#[tokio::test]
async fn a_manifest_that_lies_is_refused() {
    let work = tempfile::tempdir().unwrap();
    write(work.path(), &MODEL);
    let store = Store::open("memory:").await.unwrap();
    let good = publish_checkpoint(&store, 1, work.path(), Default::default())
        .await
        .unwrap();
    let read = async |edit: &dyn Fn(&mut CheckpointManifest), folder: &str| {
        let mut bad = good.clone();
        edit(&mut bad);
        let path = format!("{folder}/manifest.json");
        let bytes = serde_json::to_vec(&bad).unwrap();
        store.create(&path, bytes.into()).await.unwrap();
        CheckpointManifest::read(&store, &path)
            .await
            .unwrap_err()
            .to_string()
    };
    let folder = layout::checkpoint_folder(1, &good.digest);
    store
        .delete(&format!("{folder}/manifest.json"))
        .await
        .unwrap();
    let error = read(&|m| drop(m.files.remove("config.json")), &folder).await;
    assert!(error.contains("digest"), "{error}");
    let error = read(&|_| (), "checkpoints/elsewhere").await;
    assert!(error.contains("points to"), "{error}");
    store
        .create("checkpoints/x/manifest.json", "{\"step\": -1}".into())
        .await
        .unwrap();
    let error = CheckpointManifest::read(&store, "checkpoints/x/manifest.json")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("step"), "{error}");
}

#[tokio::test]
async fn a_corpus_is_published_once_and_found_by_digest() {
    let work = tempfile::tempdir().unwrap();
    let local = work.path().join("prepared");
    write(
        &local,
        &[
            ("shard-00000.arrow", "rows"),
            ("queries-dev.arrow", "queries"),
        ],
    );
    let store = Store::open("memory:").await.unwrap();
    let digest = Digest::of(b"corpus");
    let files = [
        "shard-00000.arrow".to_string(),
        "queries-dev.arrow".to_string(),
    ];
    let manifest = json!({"passages": 1});
    let corpus = publish_corpus(&store, &digest, &local, &files, manifest.clone())
        .await
        .unwrap();
    assert_eq!(corpus.folder, format!("corpus/{digest}"));
    assert_eq!(CorpusLocation::read(&store, &digest).await.unwrap(), corpus);
    assert_eq!(
        publish_corpus(&store, &digest, &local, &files, manifest)
            .await
            .unwrap(),
        corpus
    );
    let cache = Cache::new(work.path().join("cache"), 1 << 20).unwrap();
    let file = fetch_corpus_file(&store, &cache, &corpus, "queries-dev.arrow")
        .await
        .unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), b"queries");
    let error = corpus.file("queries-test.arrow").unwrap_err().to_string();
    assert!(error.contains("queries-test.arrow"), "{error}");
    let escape = ["../secret".to_string()];
    let other = Digest::of(b"other");
    assert!(
        publish_corpus(&store, &other, &local, &escape, json!({}))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_run_document_is_written_once() {
    let store = Store::open("memory:").await.unwrap();
    assert!(RunDocument::read(&store).await.unwrap_err().is_not_found());
    let digest = Digest::of(b"x");
    let run = RunDocument {
        version: RunDocument::VERSION,
        recipe: json!({"seed": 7, "lr": 2e-5}),
        corpus: CorpusLocation {
            folder: layout::corpus_folder(&digest),
            digest: digest.clone(),
            files: BTreeMap::new(),
            manifest: json!(null),
        },
        tokenizer_digest: digest.clone(),
        initial_checkpoint: checkpoint(0),
        created: 1,
        replay: None,
    };
    assert_eq!(run.publish(&store).await.unwrap(), Created::Yes);
    assert_eq!(RunDocument::read(&store).await.unwrap(), run);
    let other = RunDocument { version: 2, ..run };
    assert_eq!(other.publish(&store).await.unwrap(), Created::Exists);
    store.delete("run.json").await.unwrap();
    other.publish(&store).await.unwrap();
    let error = RunDocument::read(&store).await.unwrap_err().to_string();
    assert!(error.contains("version is 2"), "{error}");
}

fn checkpoint(step: u64) -> CheckpointRef {
    let digest = Digest::of(&step.to_le_bytes());
    CheckpointRef {
        step,
        manifest: layout::checkpoint_manifest(step, &digest),
        digest,
    }
}
