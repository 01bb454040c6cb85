//! A tiny run in a local store, with generations made by hand.
#![allow(dead_code)] // Each test file uses its part.
#![allow(clippy::unwrap_used)]

use quarry_artifacts::{
    BlockRef, Digest, GenerationKind, GenerationManifest, ObjectRef, RunDocument, Store, layout,
};
use quarry_corpus::{CandidateList, NegativesBlock};
use quarry_model::TextTokenizer;
use quarry_proto::v1::WatchGenerationsResponse;
use quarry_recipe::{Precision, Recipe, Schedule};
use quarry_testkit::{PublishedRun, WordCollection, WordSplit, write_plain_model};
use quarry_trainer::losses::StepLine;
use quarry_trainer::options::Options;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
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

/// Loads libtorch_cuda where there is one, and says whether. First thing in every test of a
/// file that also has tests for a GPU: libtorch asks once whether there is CUDA, as when it is
/// seeded, and keeps that answer for the life of the process.
pub fn load_libtorch() -> bool {
    quarry_torch_ext::load_cuda().unwrap()
}

/// The first GPU. Without one it says so, and the test is to return.
pub fn gpu() -> Option<tch::Device> {
    let loaded = load_libtorch();
    if loaded && tch::Cuda::is_available() {
        return Some(tch::Device::Cuda(0));
    }
    assert!(
        !(loaded && Path::new("/dev/nvidia0").exists()),
        "this machine has a GPU that libtorch does not see: CUDA_VISIBLE_DEVICES hides it, or a test of this file used libtorch before load_libtorch()"
    );
    eprintln!("SKIPPED: no GPU, or no libtorch_cuda beside this libtorch");
    None
}

impl TinyRun {
    pub fn new(change: impl Fn(&mut Recipe)) -> Self {
        Self::with_model(change, |_| {})
    }

    /// A run of a model in whose folder `damage` was.
    pub fn with_model(change: impl Fn(&mut Recipe), damage: impl Fn(&Path)) -> Self {
        let runtime = quarry_service::threads::runtime("test", 2).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        write_plain_model(&model, WordCollection::vocabulary(), 7);
        damage(&model);
        let tokenizer = TextTokenizer::from_dir(&model).unwrap();
        let (collection, recipe) = (collection(), recipe(change));
        let publish =
            PublishedRun::publish(folder.path(), &collection, &model, &tokenizer, &recipe);
        let PublishedRun {
            store, document, ..
        } = runtime.block_on(publish);
        Self {
            runtime,
            folder,
            store,
            run: document,
        }
    }

    /// Publishes generation `generation` of the initial checkpoint, where query `q`
    /// has the negatives `mined(q)`, and returns what announces it as activation `activation`.
    pub fn generation(
        &self,
        activation: u64,
        generation: u64,
        mined: impl Fn(u32) -> Vec<u32>,
    ) -> WatchGenerationsResponse {
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
    ) -> WatchGenerationsResponse {
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
        let manifest: ObjectRef = self.runtime.block_on(manifest.write(&self.store)).unwrap();
        WatchGenerationsResponse {
            activation,
            generation,
            checkpoint: Some(self.run.initial_checkpoint.clone().into()),
            manifest: Some(manifest.into()),
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

/// Query `q` has the positive `q`; query 1 has passage 30 as a second one.
fn collection() -> WordCollection {
    WordCollection {
        passages: PASSAGES,
        duplicate: DUPLICATE,
        shard_passages: 16,
        splits: vec![WordSplit {
            name: "train",
            queries: QUERIES,
            first: 0,
            step: 1,
            second: Some(30),
        }],
    }
}
