//! What holds for any bytes found where a document of a store should be; shared
//! with the fuzz target.

use std::fmt::Debug;

use bytes::Bytes;
use quarry_artifacts::{
    ArtifactError, CheckpointManifest, CorpusLocation, Digest, GenerationManifest, ObjectRef,
    RunDocument, Store, VersionLog, check_path, layout,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads `bytes` as every document of a store. They are refused in one line, or
/// keep what the type promises and survive being written.
pub fn manifests(bytes: &[u8]) {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime for one thread")
        .block_on(read_all(bytes));
}

async fn read_all(bytes: &[u8]) {
    let store = Store::open("memory:").await.expect("memory is there");
    let checkpoint = "checkpoints/c/manifest.json".to_owned();
    let generation = layout::generation_manifest(1);
    let named = Digest::of(b"corpus");
    let corpus = layout::corpus_manifest(&named);
    for path in [&checkpoint, &generation, &corpus, layout::run_json()] {
        let content = Bytes::copy_from_slice(bytes);
        store
            .create(path, content)
            .await
            .expect("the input is written");
    }
    let object = ObjectRef::new(generation, bytes.len() as u64, Digest::of(bytes));
    let object = object.expect("the layout's paths are safe");
    told_well(GenerationManifest::read(&store, &object).await).inspect(whole_generation);
    told_well(CheckpointManifest::read(&store, &checkpoint).await).inspect(|manifest| {
        for (name, file) in &manifest.files {
            assert_eq!(file.path, format!("checkpoints/c/{name}"));
        }
    });
    told_well(CorpusLocation::read(&store, &named).await);
    told_well(RunDocument::read(&store).await);
    told_well(VersionLog::parse(bytes, "versions.json")).inspect(a_run_could_write);
}

/// The value, safe and able to survive being written, or nothing after an error of one line.
fn told_well<T>(outcome: Result<T, ArtifactError>) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    match outcome {
        Ok(value) => {
            let json = serde_json::to_vec(&value).expect("a document has string keys");
            let again: T = serde_json::from_slice(&json).expect("a written document reads back");
            assert_eq!(again, value);
            Some(value)
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.chars().any(char::is_control), "{message:?}");
            None
        }
    }
}

/// Law 2: the blocks cover the queries from 0 without a gap, and no path is unsafe.
fn whole_generation(manifest: &GenerationManifest) {
    let mut next = 0;
    for block in &manifest.negatives {
        assert_eq!(u64::from(block.first_query), next);
        assert!(block.queries > 0);
        next += u64::from(block.queries);
    }
    for object in manifest.objects() {
        check_path(&object.path).expect("a read reference is safe");
    }
}

fn a_run_could_write(log: &VersionLog) {
    let (at, first) = log.at(0).expect("the first swap is at step 0");
    assert_eq!((at, first.step), (0, 0));
    let (last, _) = log.at(log.steps).expect("a later step follows a swap too");
    assert_eq!(last + 1, log.swaps.len());
    assert!(log.swaps.is_sorted_by(|a, b| a.step < b.step));
    assert!(log.needs_checkpoint(first.checkpoint_step));
}
