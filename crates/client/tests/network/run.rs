//! A run that is prepared and has not begun.

use quarry_artifacts::{
    CheckpointOrigin, CheckpointRef, CorpusLocation, Digest, RunDocument, Store, layout,
    publish_checkpoint,
};
use quarry_recipe::Recipe;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Puts a run of one shard and two blocks into `store`, with `checkpoints` of steps 0,
/// 10, 20 … and leases of `lease`.
pub async fn prepare(
    store: &Store,
    checkpoints: u64,
    lease: Duration,
) -> (RunDocument, Vec<CheckpointRef>) {
    let folder = tempfile::tempdir().unwrap();
    let mut saved = Vec::new();
    for step in (0..checkpoints).map(|i| 10 * i) {
        let model = folder.path().join("model.safetensors");
        std::fs::write(model, format!("weights {step}")).unwrap();
        let origin = CheckpointOrigin::default();
        let manifest = publish_checkpoint(store, step, folder.path(), origin).await;
        saved.push(manifest.unwrap().reference());
    }
    let mut recipe = Recipe::default();
    recipe.data.block_queries = 10;
    recipe.fleet.lease_seconds = lease.as_secs();
    let corpus = Digest::of(b"corpus");
    let run = RunDocument {
        version: RunDocument::VERSION,
        recipe: serde_json::to_value(&recipe).unwrap(),
        corpus: CorpusLocation {
            folder: layout::corpus_folder(&corpus),
            digest: corpus,
            files: BTreeMap::new(),
            manifest: json!({
                "shards": [{"passages": 100}],
                "queries": {"train": {"queries": 10}, "dev": {"queries": 5}},
            }),
        },
        tokenizer_digest: Digest::of(b"tokenizer"),
        initial_checkpoint: saved[0].clone(),
        created: 0,
        replay: None,
    };
    run.publish(store).await.unwrap();
    (run, saved)
}
