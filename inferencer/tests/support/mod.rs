//! A tiny run on disk: fifty passages, two splits, a random two-layer BERT.
#![allow(dead_code)] // Each test file uses its part.

use quarry_artifacts::{
    CheckpointManifest, CheckpointOrigin, CheckpointRef, ObjectRef, RunDocument, Store,
    publish_checkpoint,
};
use quarry_corpus::CorpusManifest;
use quarry_inferencer::{Depot, Perform, Progress, TaskError, Workshop};
use quarry_model::TextTokenizer;
use quarry_proto::{Block, Role, Task, TaskOutput, Work};
use quarry_recipe::Recipe;
use quarry_testkit::{PublishedRun, WordCollection, WordSplit, write_plain_model};
use std::path::{Path, PathBuf};
use tch::Device;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub const PASSAGES: usize = 50;
/// Text of passage 40 repeats that of passage 0, the positive of train query 0.
pub const DUPLICATE: u32 = 40;

/// A prepared run, its store and one worker.
pub struct TinyRun {
    pub runtime: Runtime,
    pub folder: TempDir,
    pub store: Store,
    pub run: RunDocument,
    pub recipe: Recipe,
    pub manifest: CorpusManifest,
    pub checkpoint: CheckpointRef,
    pub shop: Workshop,
}

impl TinyRun {
    pub fn new(change: impl Fn(&mut Recipe)) -> Self {
        let runtime = Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        write_plain_model(&model, WordCollection::vocabulary(), 7);
        let tokenizer = TextTokenizer::from_dir(&model).unwrap();
        let (collection, recipe) = (collection(), recipe(change));
        let publish =
            PublishedRun::publish(folder.path(), &collection, &model, &tokenizer, &recipe);
        let PublishedRun {
            store,
            document: run,
            manifest,
        } = runtime.block_on(publish);
        let shop = workshop(&runtime, &store, &run, &folder.path().join("cache"));
        let checkpoint = run.initial_checkpoint.clone();
        Self {
            runtime,
            folder,
            store,
            run,
            recipe,
            manifest,
            checkpoint,
            shop,
        }
    }

    /// Writes a model with other random weights; returns its folder.
    pub fn model(&self, seed: u64) -> PathBuf {
        let dir = self.folder.path().join(format!("model-{seed}"));
        write_plain_model(&dir, WordCollection::vocabulary(), seed);
        dir
    }

    /// Publishes the model of folder `dir`.
    pub fn publish(&self, step: u64, dir: &Path) -> CheckpointRef {
        let origin = CheckpointOrigin::default();
        let published = publish_checkpoint(&self.store, step, dir, origin);
        let manifest: CheckpointManifest = self.runtime.block_on(published).unwrap();
        manifest.reference()
    }

    pub fn task(&self, work: Work) -> Task {
        Task {
            generation: 1,
            number: 0,
            checkpoint: self.checkpoint.clone(),
            work,
        }
    }

    pub fn perform(&mut self, work: Work) -> Result<TaskOutput, TaskError> {
        let task = self.task(work);
        self.shop.perform(&task, &Progress::default())
    }

    /// The one object of `role` that `work` makes.
    pub fn make(&mut self, work: Work, role: Role) -> ObjectRef {
        let output = self.perform(work).unwrap();
        let objects: Vec<_> = output.of(role).cloned().collect();
        assert_eq!(objects.len(), 1, "{:?}", output.outputs);
        objects[0].clone()
    }

    /// Embeddings of all shards, in order.
    pub fn encode_shards(&mut self) -> Vec<ObjectRef> {
        let shards = 0..self.manifest.shards.len() as u32;
        shards
            .map(|shard| self.make(Work::EncodeShard { shard }, Role::Embeddings))
            .collect()
    }

    /// Candidates of `block`, one object for each partition of shards.
    pub fn search(&mut self, block: &Block, partitions: &[&[ObjectRef]]) -> Vec<ObjectRef> {
        let queries = self.make(
            Work::EncodeQueries {
                block: block.clone(),
            },
            Role::QueryEmbeddings,
        );
        let mut found = Vec::new();
        for (number, embeddings) in partitions.iter().enumerate() {
            let exact = self.recipe.index.kind == "exact";
            let build = Work::BuildPartition {
                partition: number as u32,
                embeddings: embeddings.to_vec(),
            };
            let index = (!exact).then(|| self.make(build, Role::Index));
            let work = Work::SearchBlock {
                block: block.clone(),
                partition: number as u32,
                query_embeddings: vec![queries.clone()],
                embeddings: embeddings.to_vec(),
                index,
            };
            found.push(self.make(work, Role::Candidates));
        }
        found
    }

    pub fn local(&self, object: &ObjectRef) -> PathBuf {
        self.store.local_folder().unwrap().join(&object.path)
    }
}

pub fn train() -> Block {
    Block {
        split: "train".to_owned(),
        first_query: 0,
        queries: 12,
    }
}

pub fn dev() -> Block {
    Block {
        split: "dev".to_owned(),
        first_query: 0,
        queries: 6,
    }
}

fn recipe(change: impl Fn(&mut Recipe)) -> Recipe {
    let mut recipe = Recipe::default();
    recipe.data.language = "plain".to_owned();
    recipe.model.query_length = 16;
    recipe.model.precision = quarry_recipe::Precision::F32;
    recipe.mining.depth = 12;
    recipe.mining.keep = 8;
    recipe.train.negatives = 2;
    change(&mut recipe);
    recipe
}

pub fn workshop(runtime: &Runtime, store: &Store, run: &RunDocument, cache: &Path) -> Workshop {
    let depot = Depot::new(runtime.handle().clone(), store.clone(), cache, 1 << 30).unwrap();
    Workshop::new(run.clone(), depot, Device::Cpu, 1).unwrap()
}

/// Three shards, of 20, 20 and 10 passages. Train query 1 has two positives.
fn collection() -> WordCollection {
    let split = |name, queries, first, step, second| WordSplit {
        name,
        queries,
        first,
        step,
        second,
    };
    WordCollection {
        passages: PASSAGES as u32,
        duplicate: DUPLICATE,
        shard_passages: 20,
        splits: vec![
            split("train", 12, 0, 4, Some(33)),
            split("dev", 6, 2, 5, None),
        ],
    }
}
