//! A run in a local store, as `quarry run` leaves it before it starts the
//! programs: corpus, initial model and `run.json`.

use crate::words::WordCollection;
use quarry_artifacts::{
    CheckpointOrigin, Digest, RunDocument, Store, publish_checkpoint, publish_corpus,
};
use quarry_corpus::{CorpusManifest, Format, PrepareOptions, Strictness, Tokenize, prepare};
use serde::Serialize;
use std::path::Path;

/// The run.
#[derive(Debug, Clone)]
pub struct PublishedRun {
    /// Its store, the folder `store`.
    pub store: Store,
    /// Its document.
    pub document: RunDocument,
    /// What the folder `prepared` holds.
    pub manifest: CorpusManifest,
}

impl PublishedRun {
    /// Prepares `collection` with `tokenizer` and publishes it, the folder `model`
    /// and a run of `recipe`. Makes the folders `data`, `prepared` and `store` in
    /// `root`.
    ///
    /// # Panics
    /// If something of it cannot be prepared or published.
    pub async fn publish(
        root: &Path,
        collection: &WordCollection,
        model: &Path,
        tokenizer: &dyn Tokenize,
        recipe: &impl Serialize,
    ) -> Self {
        let (data, prepared) = (root.join("data"), root.join("prepared"));
        collection.write(&data);
        let options = prepare_options(collection);
        let manifest = prepare(&data, &prepared, tokenizer, &options, &mut |_| {}).unwrap();
        let store = Store::open(root.join("store").to_str().unwrap())
            .await
            .unwrap();
        let shards = manifest.shards.iter().map(|s| s.file.clone());
        let files: Vec<String> = shards
            .chain(manifest.queries.values().map(|q| q.file.clone()))
            .collect();
        let digest: Digest = manifest.digest().parse().unwrap();
        let value = serde_json::to_value(&manifest).unwrap();
        let corpus = publish_corpus(&store, &digest, &prepared, &files, value)
            .await
            .unwrap();
        let origin = CheckpointOrigin::default();
        let checkpoint = publish_checkpoint(&store, 0, model, origin).await.unwrap();
        let document = RunDocument {
            version: RunDocument::VERSION,
            recipe: serde_json::to_value(recipe).unwrap(),
            corpus,
            tokenizer_digest: tokenizer.digest().parse().unwrap(),
            initial_checkpoint: checkpoint.reference(),
            created: 0,
            replay: None,
        };
        document.publish(&store).await.unwrap();
        Self {
            store,
            document,
            manifest,
        }
    }
}

/// No text of the collection is cut.
fn prepare_options(collection: &WordCollection) -> PrepareOptions {
    PrepareOptions {
        format: Format::Beir,
        shard_passages: collection.shard_passages,
        passage_prefix: String::new(),
        query_prefix: String::new(),
        passage_tokens: 30,
        query_tokens: 14,
        splits: collection
            .splits
            .iter()
            .map(|split| split.name.to_owned())
            .collect(),
        strictness: Strictness::default(),
    }
}
