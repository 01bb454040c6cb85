//! A tiny run in a local store, with generations made by hand.
#![allow(dead_code)] // Each test file uses its part.
#![allow(clippy::unwrap_used)]

pub mod coordinator;
mod tiny_model;

use quarry_artifacts::{
    BlockRef, CheckpointOrigin, Digest, GenerationKind, GenerationManifest, ObjectRef, RunDocument,
    Store, layout, publish_checkpoint, publish_corpus,
};
use quarry_corpus::{
    CandidateList, CorpusManifest, Format, NegativesBlock, PrepareOptions, Strictness, Tokenize,
    prepare,
};
use quarry_model::TextTokenizer;
use quarry_recipe::{Precision, Recipe, Schedule};
use quarry_trainer::losses::StepLine;
use quarry_trainer::negatives::Activation;
use quarry_trainer::options::Options;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use tch::Tensor;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub const PASSAGES: u32 = 40;
pub const QUERIES: u32 = 20;
/// Passage 39 repeats the text of passage 0, the positive of query 0.
pub const DUPLICATE: u32 = 39;

/// libtorch's generator and thread count belong to the process: tests that train
/// take turns.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub struct TinyRun {
    pub runtime: Runtime,
    pub folder: TempDir,
    pub store: Store,
    pub run: RunDocument,
}

impl TinyRun {
    pub fn new(change: impl Fn(&mut Recipe)) -> Self {
        Self::with_model(change, |_| {})
    }

    pub fn with_model(
        change: impl Fn(&mut Recipe),
        damage: impl Fn(&mut Vec<(String, Tensor)>),
    ) -> Self {
        let runtime = quarry_service::threads::runtime("test", 2).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        tiny_model::write_model(&model, damage);
        let recipe = recipe(change);
        let (store, run) = runtime.block_on(publish(folder.path(), &model, &recipe));
        Self {
            runtime,
            folder,
            store,
            run,
        }
    }

    /// Publishes generation `generation` of the initial checkpoint, where query `q`
    /// has the negatives `mined(q)`, and returns it as activation `activation`.
    pub fn generation(
        &self,
        activation: u64,
        generation: u64,
        mined: impl Fn(u32) -> Vec<u32>,
    ) -> Activation {
        self.generation_of(
            activation,
            generation,
            QUERIES,
            &self.run.corpus.digest,
            mined,
        )
    }

    pub fn generation_of(
        &self,
        activation: u64,
        generation: u64,
        queries: u32,
        corpus: &Digest,
        mined: impl Fn(u32) -> Vec<u32>,
    ) -> Activation {
        let mut negatives = Vec::new();
        for first in (0..queries).step_by(8) {
            let lists: Vec<_> = (first..queries.min(first + 8))
                .map(|q| list(q, mined(q)))
                .collect();
            let file = self.folder.path().join("block.arrow");
            NegativesBlock::write(&file, &lists).unwrap();
            let folder = layout::generation_negatives(generation);
            let stem = format!("block-{first:05}");
            let put = self.store.put_file(&folder, &stem, "arrow", &file);
            let object = self.runtime.block_on(put).unwrap();
            negatives.push(BlockRef {
                first_query: first,
                queries: lists.len() as u32,
                object,
            });
        }
        let manifest = GenerationManifest {
            generation,
            kind: GenerationKind::Bm25,
            checkpoint: self.run.initial_checkpoint.clone(),
            corpus: corpus.clone(),
            embeddings: Vec::new(),
            query_embeddings: BTreeMap::new(),
            index: Vec::new(),
            negatives,
            runs: BTreeMap::new(),
            metrics: BTreeMap::new(),
            counts: BTreeMap::new(),
        };
        let manifest: ObjectRef = self
            .runtime
            .block_on(manifest.publish(&self.store))
            .unwrap();
        let checkpoint = self.run.initial_checkpoint.clone();
        Activation {
            activation,
            generation,
            checkpoint,
            manifest,
        }
    }

    pub fn losses(&self) -> PathBuf {
        self.folder.path().join("losses.jsonl")
    }

    pub fn lines(&self) -> Vec<StepLine> {
        let text = std::fs::read_to_string(self.losses()).unwrap_or_default();
        // A last line that is still being written does not count.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub fn options(&self, coordinator: &str) -> Options {
        Options {
            coordinator: coordinator.to_owned(),
            store: self.store.url().to_owned(),
            threads: Some(1),
            cache: Some(self.folder.path().join("cache")),
            device: "cpu".parse().unwrap(),
            resume: false,
            token_file: None,
            stop_after_step: None,
            losses: Some(self.losses()),
            log_json: false,
        }
    }
}

/// Everything that is not the query's positive, hardest first.
pub fn all_others(query: u32) -> Vec<u32> {
    (0..PASSAGES)
        .filter(|row| *row != query && *row != DUPLICATE)
        .collect()
}

fn list(query: u32, rows: Vec<u32>) -> CandidateList {
    let scores = (0..rows.len())
        .map(|rank| 1.0 / (rank as f32 + 2.0))
        .collect();
    CandidateList {
        query,
        rows,
        scores,
        positives: vec![query],
        positive_scores: vec![1.0],
    }
}

fn recipe(change: impl Fn(&mut Recipe)) -> Recipe {
    let mut recipe = Recipe::default();
    recipe.data.language = "plain".to_owned();
    recipe.model.query_length = 16;
    recipe.train.precision = Precision::F32;
    recipe.train.passage_length = 16;
    recipe.train.negatives = 2;
    recipe.train.batch_size = 6;
    recipe.train.max_steps = 12;
    recipe.train.learning_rate = 2e-3;
    recipe.train.schedule = Schedule::Constant;
    recipe.train.checkpoint_every = 1000;
    change(&mut recipe);
    recipe.validate().unwrap();
    recipe
}

async fn publish(root: &Path, model: &Path, recipe: &Recipe) -> (Store, RunDocument) {
    let (data, prepared) = (root.join("data"), root.join("prepared"));
    write_collection(&data);
    let tokenizer = TextTokenizer::from_dir(model).unwrap();
    let manifest: CorpusManifest = prepare(
        &data,
        &prepared,
        &tokenizer,
        &prepare_options(),
        &mut |_| {},
    )
    .unwrap();
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
    let run = RunDocument {
        version: RunDocument::VERSION,
        recipe: serde_json::to_value(recipe).unwrap(),
        corpus,
        tokenizer_digest: tokenizer.digest().parse().unwrap(),
        initial_checkpoint: checkpoint.reference(),
        created: 0,
    };
    run.publish(&store).await.unwrap();
    (store, run)
}

fn prepare_options() -> PrepareOptions {
    PrepareOptions {
        format: Format::Beir,
        shard_passages: 16,
        passage_prefix: String::new(),
        query_prefix: String::new(),
        passage_tokens: 30,
        query_tokens: 14,
        splits: vec!["train".to_owned()],
        strictness: Strictness::default(),
    }
}

/// Words of passage `p`: a fixed pseudo-random draw.
fn words(p: u32, count: u32) -> String {
    let p = if p == DUPLICATE { 0 } else { p };
    let mut state = u64::from(p) * 7919 + 17;
    let draw = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        format!("word{}", (state >> 33) as usize % tiny_model::WORDS)
    };
    (0..count).map(draw).collect::<Vec<_>>().join(" ")
}

/// Passage `p` has 4 to 10 words; query `q` asks with the first three of passage
/// `q`, its positive. Query 1 has passage 30 as a second one.
fn write_collection(dir: &Path) {
    std::fs::create_dir_all(dir.join("qrels")).unwrap();
    let (mut corpus, mut queries) = (String::new(), String::new());
    for p in 0..PASSAGES {
        let length = if p == DUPLICATE { 4 } else { 4 + p % 7 };
        let line = json!({"_id": format!("d{p}"), "title": "", "text": words(p, length)});
        writeln!(corpus, "{line}").unwrap();
    }
    let mut qrels = "query-id\tcorpus-id\tscore\n".to_owned();
    for q in 0..QUERIES {
        let line = json!({"_id": format!("q{q:02}"), "text": words(q, 3)});
        writeln!(queries, "{line}").unwrap();
        writeln!(qrels, "q{q:02}\td{q}\t1").unwrap();
    }
    writeln!(qrels, "q01\td30\t2").unwrap();
    std::fs::write(dir.join("corpus.jsonl"), corpus).unwrap();
    std::fs::write(dir.join("queries.jsonl"), queries).unwrap();
    std::fs::write(dir.join("qrels/train.tsv"), qrels).unwrap();
}
