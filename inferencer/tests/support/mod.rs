//! A tiny run on disk: fifty passages, two splits, a random two-layer BERT.
#![allow(dead_code)] // Each test file uses its part.

use quarry_artifacts::{
    CheckpointManifest, CheckpointOrigin, CheckpointRef, Digest, ObjectRef, RunDocument, Store,
    publish_checkpoint, publish_corpus,
};
use quarry_corpus::{CorpusManifest, Format, PrepareOptions, Strictness, Tokenize, prepare};
use quarry_inferencer::{Depot, Perform, Progress, TaskError, Workshop};
use quarry_model::TextTokenizer;
use quarry_proto::{Block, Role, Task, TaskOutput, Work};
use quarry_recipe::Recipe;
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub const PASSAGES: usize = 50;
/// Text of passage 40 repeats that of passage 0, the positive of train query 0.
pub const DUPLICATE: u32 = 40;
const WORDS: usize = 40;

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
    /// A run whose shards hold 20 passages: 20, 20, 10.
    pub fn new(change: impl Fn(&mut Recipe)) -> Self {
        let runtime = Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        write_model(&model, 7);
        let recipe = recipe(change);
        let (store, run, manifest) = runtime.block_on(publish(folder.path(), &model, &recipe));
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

    /// Publishes a model with other random weights.
    pub fn checkpoint(&self, step: u64, seed: i64) -> CheckpointRef {
        let dir = self.folder.path().join(format!("model-{seed}"));
        write_model(&dir, seed);
        let origin = CheckpointOrigin::default();
        let published = publish_checkpoint(&self.store, step, &dir, origin);
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

    pub fn local(&self, object: &ObjectRef) -> std::path::PathBuf {
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

async fn publish(
    root: &Path,
    model: &Path,
    recipe: &Recipe,
) -> (Store, RunDocument, CorpusManifest) {
    let (data, prepared) = (root.join("data"), root.join("prepared"));
    write_collection(&data);
    let tokenizer = TextTokenizer::from_dir(model).unwrap();
    let manifest = prepare(
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
    let files: Vec<String> = manifest
        .shards
        .iter()
        .map(|s| s.file.clone())
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
    (store, run, manifest)
}

fn prepare_options() -> PrepareOptions {
    PrepareOptions {
        format: Format::Beir,
        shard_passages: 20,
        passage_prefix: String::new(),
        query_prefix: String::new(),
        passage_tokens: 30,
        query_tokens: 14,
        splits: vec!["train".to_owned(), "dev".to_owned()],
        strictness: Strictness::default(),
    }
}

/// Words of passage `p`: a fixed pseudo-random draw.
fn words(p: usize, count: usize) -> String {
    let p = if p == DUPLICATE as usize { 0 } else { p };
    let mut state = p as u64 * 7919 + 17;
    let draw = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        format!("word{}", (state >> 33) as usize % WORDS)
    };
    (0..count).map(draw).collect::<Vec<_>>().join(" ")
}

/// Passage `p` has 4 to 10 words; query `q` of a split asks with its positive's
/// first three. Train query 1 has two positives.
fn write_collection(dir: &Path) {
    std::fs::create_dir_all(dir.join("qrels")).unwrap();
    let mut corpus = String::new();
    for p in 0..PASSAGES {
        let length = if p == DUPLICATE as usize {
            4
        } else {
            4 + p % 7
        };
        let line = json!({"_id": format!("d{p}"), "title": "", "text": words(p, length)});
        writeln!(corpus, "{line}").unwrap();
    }
    std::fs::write(dir.join("corpus.jsonl"), corpus).unwrap();
    let mut queries = String::new();
    for (split, count, step, offset) in [("train", 12, 4, 0), ("dev", 6, 5, 2)] {
        let mut qrels = "query-id\tcorpus-id\tscore\n".to_owned();
        for q in 0..count {
            let positive = offset + q * step;
            let line = json!({"_id": format!("{split}{q:02}"), "text": words(positive, 3)});
            writeln!(queries, "{line}").unwrap();
            writeln!(qrels, "{split}{q:02}\td{positive}\t1").unwrap();
            if (split, q) == ("train", 1) {
                writeln!(qrels, "{split}{q:02}\td33\t2").unwrap();
            }
        }
        std::fs::write(dir.join("qrels").join(format!("{split}.tsv")), qrels).unwrap();
    }
    std::fs::write(dir.join("queries.jsonl"), queries).unwrap();
}

/// A BERT of width 16 with random weights.
pub fn write_model(dir: &Path, seed: i64) {
    std::fs::create_dir_all(dir).unwrap();
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    let vocabulary: Vec<String> = special
        .iter()
        .map(|s| (*s).to_owned())
        .chain((0..WORDS).map(|w| format!("word{w}")))
        .collect();
    let config = json!({
        "model_type": "bert", "vocab_size": vocabulary.len(), "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "max_position_embeddings": 32, "type_vocab_size": 2, "pad_token_id": 0,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(
        dir.join("tokenizer.json"),
        tokenizer(&vocabulary).to_string(),
    )
    .unwrap();
    tch::manual_seed(seed);
    let weights = weights(vocabulary.len() as i64);
    Tensor::write_safetensors(&weights, dir.join("model.safetensors")).unwrap();
}

fn tokenizer(vocabulary: &[String]) -> serde_json::Value {
    let vocab: serde_json::Map<_, _> = vocabulary
        .iter()
        .enumerate()
        .map(|(id, word)| (word.clone(), json!(id)))
        .collect();
    let token = |id: usize| {
        json!({"id": id, "content": vocabulary[id], "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true})
    };
    let special = |id: &str, number: u32| json!({"id": id, "ids": [number], "tokens": [id]});
    let frame = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": (0..4).map(token).collect::<Vec<_>>(),
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [frame("[CLS]"), text("A"), frame("[SEP]")],
            "pair": [frame("[CLS]"), text("A"), frame("[SEP]"), text("B"), frame("[SEP]")],
            "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)}},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    })
}

fn weights(vocabulary: i64) -> Vec<(String, Tensor)> {
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.4;
    let mut all = vec![
        (
            "embeddings.word_embeddings.weight".to_owned(),
            random(&[vocabulary, 16]),
        ),
        (
            "embeddings.position_embeddings.weight".to_owned(),
            random(&[32, 16]) * 0.2,
        ),
        (
            "embeddings.token_type_embeddings.weight".to_owned(),
            random(&[2, 16]),
        ),
    ];
    let mut module = |path: String, shape: &[i64]| {
        let norm = path.ends_with("LayerNorm");
        let weight = if norm {
            random(shape) + 1.0
        } else {
            random(shape)
        };
        all.push((format!("{path}.weight"), weight));
        all.push((format!("{path}.bias"), random(&shape[..1]) * 0.1));
    };
    module("embeddings.LayerNorm".to_owned(), &[16]);
    for layer in 0..2 {
        let path = |part: &str| format!("encoder.layer.{layer}.{part}");
        for part in [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
        ] {
            module(path(part), &[16, 16]);
        }
        module(path("attention.output.LayerNorm"), &[16]);
        module(path("intermediate.dense"), &[32, 16]);
        module(path("output.dense"), &[16, 32]);
        module(path("output.LayerNorm"), &[16]);
    }
    all
}
