//! What a run trains on: the corpus and the training split, memory-mapped.
//!
//! Owns: fetching them from the store by the run's document, and their bounds.
//! Refuses: texts (the prepared files hold tokens) and any other split.

use crate::batches::Judgements;
use anyhow::{Context, Result, ensure};
use quarry_artifacts::{Cache, CachedFile, CorpusLocation, Digest, Store, fetch_corpus_file};
use quarry_corpus::{Corpus, CorpusManifest, QuerySet};
use std::path::PathBuf;

/// The corpus and the training queries.
pub struct Dataset {
    corpus: Corpus,
    queries: QuerySet,
    digest: Digest,
    _files: Vec<CachedFile>,
}

impl Dataset {
    /// Fetches, verifies and maps the corpus and the split `train`.
    ///
    /// # Errors
    /// A missing or damaged file, or a split the corpus lacks.
    pub async fn fetch(
        store: &Store,
        cache: &Cache,
        location: &CorpusLocation,
        train: &str,
    ) -> Result<Self> {
        let manifest: CorpusManifest = serde_json::from_value(location.manifest.clone())
            .with_context(|| format!("{} has no readable corpus manifest", location.folder))?;
        let entry = manifest.queries.get(train).with_context(|| {
            format!(
                "the prepared corpus has no split {train:?}; set data.train to one of: {}",
                manifest
                    .queries
                    .keys()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        })?;
        let queries = fetch_corpus_file(store, cache, location, &entry.file).await?;
        let mut files = Vec::with_capacity(manifest.shards.len());
        for shard in &manifest.shards {
            files.push(fetch_corpus_file(store, cache, location, &shard.file).await?);
        }
        let shards: Vec<PathBuf> = files.iter().map(|f| f.path().to_owned()).collect();
        let set = QuerySet::open(queries.path())?;
        files.push(queries);
        Self::new(Corpus::open(&shards)?, set, location.digest.clone(), files)
    }

    /// A data set of maps that are open already; `files` are held while it lives.
    ///
    /// # Errors
    /// A query judged against a passage that the corpus lacks.
    pub fn new(
        corpus: Corpus,
        queries: QuerySet,
        digest: Digest,
        files: Vec<CachedFile>,
    ) -> Result<Self> {
        let passages = corpus.passages();
        for query in 0..queries.len() {
            for row in queries.positives(query) {
                ensure!(
                    (row as usize) < passages,
                    "training query {query} is judged against passage {row} but the corpus has {passages}; prepare the corpus again"
                );
            }
        }
        Ok(Self {
            corpus,
            queries,
            digest,
            _files: files,
        })
    }

    /// Training queries.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.queries.len()
    }

    /// Passages of the corpus.
    #[must_use]
    pub fn passages(&self) -> usize {
        self.corpus.passages()
    }

    /// Identity of the corpus.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Content tokens of a training query.
    #[must_use]
    pub fn query_tokens(&self, query: u32) -> &[u32] {
        self.queries.tokens(query as usize)
    }

    /// Content tokens of a passage.
    #[must_use]
    pub fn passage_tokens(&self, row: u32) -> &[u32] {
        self.corpus.tokens(row)
    }
}

impl Judgements for Dataset {
    fn positives(&self, query: u32) -> Vec<u32> {
        self.queries.positives(query as usize).collect()
    }

    fn known_positives(&self, query: u32) -> Vec<u32> {
        self.queries.known_positives(query as usize)
    }

    fn text_hash(&self, row: u32) -> u64 {
        self.corpus.text_hash(row)
    }
}
