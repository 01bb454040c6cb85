//! What a run achieved: BM25, zero-shot, every generation, and the final model,
//! scored on the prepared collection in the store.

use crate::ranking::{self, Lengths};
use crate::table;
use crate::vectors::PassageVectors;
use anyhow::{Context, Result};
use bytes::Bytes;
use quarry_artifacts::{
    Cache, CachedFile, CheckpointFiles, CheckpointRef, CorpusLocation, ObjectRef, Store,
    fetch_checkpoint, fetch_corpus_file,
};
use quarry_corpus::{Corpus, CorpusManifest, QuerySet};
use quarry_eval::{Metric, evaluate, write_run};
use quarry_model::{DualEncoder, LoadOptions, TextTokenizer};
use quarry_proto::v1::GenerationSummary;
use quarry_recipe::Recipe;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Metrics of every row.
const METRICS: [Metric; 3] = [Metric::Mrr(10), Metric::Ndcg(10), Metric::Recall(100)];

/// Passages ranked for each query of an evaluation.
const DEPTH: usize = 1000;

/// One model's scores on one split.
#[derive(Debug, Clone, Serialize)]
pub struct Score {
    /// What was scored: `bm25`, `zero-shot`, `generation 3`, `final`.
    pub system: String,
    /// The checkpoint's step, if a checkpoint was scored.
    pub step: Option<u64>,
    /// The split.
    pub split: String,
    /// Metric name to value.
    pub metrics: BTreeMap<String, f64>,
}

/// Scores of the generations, in order, named for readers.
#[must_use]
pub fn generation_scores(generations: &[GenerationSummary], dev: &str) -> Vec<Score> {
    generations
        .iter()
        .map(|generation| {
            let step = generation.checkpoint.as_ref().map(|c| c.step);
            let system = match (generation.kind.as_str(), step) {
                ("bm25", _) => "bm25".to_owned(),
                (_, Some(0)) => format!("zero-shot (gen {})", generation.generation),
                _ => format!("generation {}", generation.generation),
            };
            let prefix = format!("{dev}/");
            let metrics = generation
                .metrics
                .iter()
                .map(|(name, value)| {
                    (
                        name.strip_prefix(&prefix).unwrap_or(name).to_owned(),
                        *value,
                    )
                })
                .collect();
            let step = step.filter(|_| generation.kind != "bm25");
            Score {
                system,
                step,
                split: dev.to_owned(),
                metrics,
            }
        })
        .collect()
}

/// The scores as a table.
#[must_use]
pub fn render(scores: &[Score]) -> String {
    let header: Vec<String> = ["system", "checkpoint", "split"]
        .map(str::to_owned)
        .into_iter()
        .chain(METRICS.iter().map(Metric::to_string))
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> = scores
        .iter()
        .map(|score| {
            let step = score.step.map_or("-".to_owned(), |s| format!("step {s}"));
            let mut row = vec![score.system.clone(), step, score.split.clone()];
            row.extend(METRICS.iter().map(|metric| {
                score
                    .metrics
                    .get(&metric.to_string())
                    .map_or("-".to_owned(), |v| format!("{v:.4}"))
            }));
            row
        })
        .collect();
    table::render(&header, &rows)
}

/// Scores checkpoints of a run on its prepared collection.
pub struct Judge<'a> {
    store: &'a Store,
    cache: Cache,
    scratch: PathBuf,
    recipe: &'a Recipe,
    location: &'a CorpusLocation,
    manifest: CorpusManifest,
    corpus: Corpus,
    /// The cache must not drop the shards while they are mapped.
    _held: Vec<CachedFile>,
}

impl<'a> Judge<'a> {
    /// Opens the prepared collection.
    ///
    /// # Errors
    /// If a file of it is missing or damaged.
    pub async fn open(
        store: &'a Store,
        cache: Cache,
        scratch: PathBuf,
        recipe: &'a Recipe,
        location: &'a CorpusLocation,
    ) -> Result<Self> {
        let manifest: CorpusManifest = serde_json::from_value(location.manifest.clone())
            .with_context(|| format!("{}: not a corpus manifest", location.folder))?;
        let mut held = Vec::new();
        for shard in &manifest.shards {
            held.push(fetch_corpus_file(store, &cache, location, &shard.file).await?);
        }
        let shards: Vec<PathBuf> = held.iter().map(|file| file.path().to_path_buf()).collect();
        let corpus = Corpus::open(&shards)?;
        Ok(Self {
            store,
            cache,
            scratch,
            recipe,
            location,
            manifest,
            corpus,
            _held: held,
        })
    }

    /// Queries of the training split.
    pub fn train_queries(&self) -> u64 {
        self.manifest
            .queries
            .get(&self.recipe.data.train)
            .map_or(0, |entry| u64::from(entry.queries))
    }

    /// Scores the checkpoint on `splits`, keeping the runs in the store.
    ///
    /// # Errors
    /// If the checkpoint is missing or damaged, or the store fails.
    pub async fn score(
        &self,
        system: &str,
        checkpoint: &CheckpointRef,
        splits: &[&str],
    ) -> Result<Vec<Score>> {
        let folder = self
            .scratch
            .join(format!("model-{}", checkpoint.digest.short()));
        fetch_checkpoint(
            self.store,
            &self.cache,
            &checkpoint.manifest,
            CheckpointFiles::Model,
            &folder,
        )
        .await?;
        let model = DualEncoder::load(&folder, &LoadOptions::default())?;
        let specials = TextTokenizer::from_dir(&folder)?.specials();
        let within = |length: usize| {
            if length == 0 {
                model.max_length()
            } else {
                length
            }
        };
        let lengths = Lengths {
            query: within(self.recipe.model.query_length),
            passage: within(self.recipe.model.passage_length),
        };
        let passages = PassageVectors::encode(
            model.passage(),
            specials,
            &self.corpus,
            lengths.passage,
            &self.scratch,
        )?;
        let index = &passages.index;
        let mut scores = Vec::new();
        for split in splits.iter().filter(|split| !split.is_empty()) {
            let queries = self.queries(split).await?;
            let hits =
                ranking::search_all(&model, specials, index, &queries, lengths.query, DEPTH)?;
            let run = ranking::to_run(&hits, &queries, &self.corpus)?;
            let qrels = ranking::qrels(&queries, &self.corpus)?;
            let metrics = evaluate(&qrels, &run, &METRICS).means;
            let file = self.scratch.join(format!("{split}.trec"));
            write_run(&file, &run, &format!("step-{}", checkpoint.step))?;
            let stem = format!("{split}-step-{}", checkpoint.step);
            let kept = self.keep(&stem, &file).await?;
            tracing::debug!(path = kept.path, "run kept");
            scores.push(Score {
                system: system.to_owned(),
                step: Some(checkpoint.step),
                split: (*split).to_owned(),
                metrics,
            });
        }
        Ok(scores)
    }

    async fn queries(&self, split: &str) -> Result<QuerySet> {
        let entry = self
            .manifest
            .queries
            .get(split)
            .with_context(|| format!("the prepared collection has no split {split}"))?;
        let file = fetch_corpus_file(self.store, &self.cache, self.location, &entry.file).await?;
        Ok(QuerySet::open(file.path())?)
    }

    async fn keep(&self, stem: &str, file: &std::path::Path) -> Result<ObjectRef> {
        let bytes = Bytes::from(std::fs::read(file)?);
        Ok(self
            .store
            .put_content("evaluations", stem, "trec", bytes)
            .await?)
    }
}
