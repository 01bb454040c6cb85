//! The pre-flight: what memory, disk and time a run will need, from sizes that
//! are known before it starts, and a refusal if it cannot fit.
//!
//! Owns the arithmetic. Refuses to guess silently: every line names the sizes
//! it follows from.

use crate::resources::Resources;
use crate::table;
use anyhow::{Result, bail};
use quarry_corpus::CorpusManifest;
use quarry_model::{MOST_LANES, ModelFolder};
use quarry_recipe::{Optimizer, Recipe, RefreshWhen};

const GIB: f64 = (1_u64 << 30) as f64;

/// Share of the matrix-product peak that training and encoding reach.
const EFFICIENCY: f64 = 0.5;

/// libtorch itself, its threads and allocator, in bytes.
const LIBTORCH: f64 = 0.5 * GIB;

/// Sizes of an encoder.
#[derive(Debug, Clone, Copy)]
pub struct ModelSize {
    /// All weights.
    pub parameters: f64,
    /// Weights of the transformer blocks, which every token passes.
    pub block_parameters: f64,
    /// Transformer blocks.
    pub layers: f64,
    /// Width of a token's state.
    pub hidden: f64,
    /// Width inside the feed-forward part.
    pub intermediate: f64,
}

impl ModelSize {
    /// Reads the sizes from a model folder's config and weight file.
    ///
    /// # Errors
    /// If the weight file cannot be looked at.
    pub fn of(folder: &ModelFolder) -> Result<Self> {
        let config = &folder.config;
        let (layers, hidden) = (config.layers as f64, config.hidden_size as f64);
        let intermediate = config.intermediate_size as f64;
        let block_parameters = layers * hidden * (4.0 * hidden + 2.0 * intermediate);
        let tables = (config.vocab_size + config.position_rows) as f64 * hidden;
        Ok(Self {
            parameters: block_parameters + tables,
            block_parameters,
            layers,
            hidden,
            intermediate,
        })
    }
}

/// What a run will need.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Optimizer steps.
    pub steps: u64,
    /// Bytes of the trainer.
    pub trainer_memory: f64,
    /// Bytes of each inferencer.
    pub worker_memory: f64,
    /// Bytes in the store at most.
    pub disk: f64,
    /// Those of them that are candidates of searches.
    pub candidates: f64,
    /// FLOPs of all training steps.
    pub train_flops: f64,
    /// FLOPs of one refresh.
    pub refresh_flops: f64,
}

impl Needs {
    /// Bytes at the worst moment, with `workers` inferencers. The verdict encodes shard
    /// by shard as a worker does, when the other programs have ended.
    #[must_use]
    pub fn memory(&self, workers: usize) -> f64 {
        self.trainer_memory + workers as f64 * self.worker_memory
    }
}

/// Steps of a run over `queries` training queries.
#[must_use]
pub fn total_steps(recipe: &Recipe, queries: u64) -> u64 {
    match recipe.train.max_steps {
        0 => (recipe.train.epochs * queries as f64 / recipe.train.batch_size as f64).ceil() as u64,
        steps => steps,
    }
}

/// Works out the needs.
#[must_use]
pub fn needs(recipe: &Recipe, model: ModelSize, corpus: &CorpusManifest) -> Needs {
    let train = corpus.queries.get(&recipe.data.train);
    let queries = train.map_or(0, |q| q.queries) as f64;
    let steps = total_steps(recipe, queries as u64);
    let passages = corpus.passages as f64;
    let corpus_tokens: f64 = corpus.shards.iter().map(|s| s.tokens as f64).sum();
    let query_tokens: f64 = corpus.queries.values().map(|q| q.tokens as f64).sum();
    let mean_query = train.map_or(0.0, |q| q.tokens as f64) / queries.max(1.0) + 2.0;
    let mean_passage =
        (corpus_tokens / passages.max(1.0) + 2.0).min(recipe.train.passage_length as f64);
    let columns = 1.0 + recipe.train.negatives as f64;
    let tokens_per_step = recipe.train.batch_size as f64 * (mean_query + columns * mean_passage);
    let micro_tokens = tokens_per_step / recipe.train.accumulation as f64;
    let forward = |tokens: f64| 2.0 * model.block_parameters * tokens;
    // weights and their bf16 copies, gradients, moments; the copy of weights and
    // moments that a checkpoint is written from; then what backward keeps.
    let state = model.parameters * 4.0 * (1.5 + 1.0 + moments(recipe));
    let copy = model.parameters * 4.0 * (1.0 + moments(recipe));
    // Threads that share a batch out have gradients of their own for the blocks.
    let lanes = recipe.fleet.trainer_threads.clamp(1, MOST_LANES) as f64;
    let apart = (lanes - 1.0) * model.block_parameters * 4.0;
    let kept = model.layers * (9.0 * model.hidden + 3.0 * model.intermediate) * 4.0 * micro_tokens;
    let shard = recipe.data.shard_passages as f64 * model.hidden * 6.0;
    let embeddings = passages * model.hidden * 2.0;
    let generations = if recipe.refresh.when == RefreshWhen::Never {
        0.0
    } else {
        recipe.refresh.keep_generations as f64 + 1.0
    };
    // A passage and its score; no search finds more passages than there are.
    let listed = |most: usize| queries * (most as f64).min(passages) * 8.0;
    let (negatives, candidates) = (listed(recipe.mining.keep), listed(recipe.mining.depth));
    let of_generation = embeddings + negatives + candidates;
    let checkpoints = recipe.train.keep_checkpoints as f64 + generations + 2.0;
    let prepared: f64 = corpus.shards.iter().map(|s| s.size as f64).sum::<f64>()
        + corpus.queries.values().map(|q| q.size as f64).sum::<f64>();
    Needs {
        steps,
        trainer_memory: LIBTORCH + state + copy + apart + kept,
        worker_memory: LIBTORCH + model.parameters * 6.0 + shard,
        // The verdict's vectors lie on disk as those of one more generation.
        disk: prepared + (generations + 1.0) * of_generation + checkpoints * copy,
        candidates: (generations + 1.0) * candidates,
        train_flops: 3.0 * forward(tokens_per_step) * steps as f64,
        refresh_flops: forward(corpus_tokens + query_tokens),
    }
}

fn moments(recipe: &Recipe) -> f64 {
    match recipe.train.optimizer {
        Optimizer::AdamW | Optimizer::Lamb => 2.0,
    }
}

/// The needs beside what the machine has, as a table, with the time at
/// `flops` FLOP/s on all cores.
#[must_use]
pub fn describe(recipe: &Recipe, needs: &Needs, machine: &Resources, flops: f64) -> String {
    let workers = recipe.fleet.workers;
    let trainer = recipe.trainer_threads(machine.cores);
    let worker = recipe.fleet.threads_of_worker(machine.cores);
    let share = |threads: usize| (threads as f64 / machine.cores as f64).min(1.0);
    let train_seconds = needs.train_flops / (flops * EFFICIENCY * share(trainer));
    let refresh_seconds = needs.refresh_flops / (flops * EFFICIENCY * share(worker * workers));
    let gib = |bytes: f64| format!("{:.1} GiB", bytes / GIB);
    let rows = vec![
        vec![
            "memory".to_owned(),
            gib(needs.memory(workers)),
            format!("{} available", gib(machine.memory as f64)),
        ],
        vec![
            "disk".to_owned(),
            gib(needs.disk),
            machine.disk.map_or("remote store".to_owned(), |d| {
                format!("{} free", gib(d as f64))
            }),
        ],
        vec![
            "threads".to_owned(),
            format!("{trainer} + {workers} x {worker}"),
            format!("{} cores", machine.cores),
        ],
        vec![
            "training".to_owned(),
            duration(train_seconds),
            format!("{} steps", needs.steps),
        ],
        vec![
            "one refresh".to_owned(),
            duration(refresh_seconds),
            "beside it".to_owned(),
        ],
    ];
    table::render(&["pre-flight", "needs about", ""], &rows)
}

/// Refuses a run that cannot fit.
///
/// # Errors
/// If memory or disk do not suffice; names what to change.
pub fn refuse_if_too_large(recipe: &Recipe, needs: &Needs, machine: &Resources) -> Result<()> {
    let memory = needs.memory(recipe.fleet.workers);
    if memory > machine.memory as f64 {
        bail!(
            "this run needs about {:.1} GiB of memory and {:.1} GiB are available; raise train.accumulation, \
             lower train.passage_length or fleet.workers, or use a larger machine",
            memory / GIB,
            machine.memory as f64 / GIB
        );
    }
    if let Some(free) = machine.disk.filter(|free| needs.disk > *free as f64) {
        let keys = match needs.candidates > needs.disk / 2.0 {
            true => "mining.depth",
            false => "refresh.keep_generations or train.keep_checkpoints",
        };
        bail!(
            "this run needs about {:.1} GiB of disk and {:.1} GiB are free; lower {keys}, or choose another --store",
            needs.disk / GIB,
            free as f64 / GIB
        );
    }
    Ok(())
}

/// Seconds as people say them.
#[must_use]
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s < 0.0 => "unknown".to_owned(),
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_corpus::{Format, QueriesEntry, ShardEntry};
    use std::collections::BTreeMap;

    fn manifest(passages: u64, queries: u64) -> CorpusManifest {
        CorpusManifest {
            format: Format::Beir,
            passages,
            shards: vec![ShardEntry {
                file: "shard-00000.arrow".into(),
                first_row: 0,
                passages: passages as u32,
                size: passages * 1000,
                sha256: String::new(),
                tokens: passages * 100,
            }],
            queries: BTreeMap::from([(
                "train".to_owned(),
                QueriesEntry {
                    file: "queries-train.arrow".into(),
                    queries: u32::try_from(queries).unwrap(),
                    positives: queries,
                    size: queries * 100,
                    sha256: String::new(),
                    tokens: queries * 10,
                    truncated: 0,
                },
            )]),
            tokenizer_digest: String::new(),
            passage_prefix: String::new(),
            query_prefix: String::new(),
            passage_tokens: 254,
            query_tokens: 62,
            dropped: BTreeMap::new(),
            truncated_passages: 0,
        }
    }

    const MINILM: ModelSize = ModelSize {
        parameters: 22.7e6,
        block_parameters: 10.6e6,
        layers: 6.0,
        hidden: 384.0,
        intermediate: 1536.0,
    };

    fn machine(memory_gib: f64, disk_gib: f64) -> Resources {
        Resources {
            cores: 2,
            memory: (memory_gib * GIB) as u64,
            disk: Some((disk_gib * GIB) as u64),
        }
    }

    #[test]
    fn steps_follow_from_epochs_unless_given() {
        let mut recipe = Recipe::default();
        assert_eq!(total_steps(&recipe, 7231), 226);
        recipe.train.max_steps = 10;
        assert_eq!(total_steps(&recipe, 7231), 10);
    }

    #[test]
    fn threads_that_share_a_batch_out_need_gradients_of_their_own() {
        let memory = |threads| {
            let mut recipe = Recipe::default();
            recipe.fleet.trainer_threads = threads;
            needs(&recipe, MINILM, &manifest(2000, 3200)).trainer_memory
        };
        assert_eq!(memory(2) - memory(1), 4.0 * 10.6e6);
        assert_eq!(memory(64) - memory(1), 3.0 * 4.0 * 10.6e6);
    }

    #[test]
    fn flops_follow_tokens_and_weights() {
        let recipe = Recipe::default();
        let needs = needs(&recipe, MINILM, &manifest(2000, 3200));
        // 100 steps of 32 x (12 + 2 x 102) tokens, 6 FLOPs a weight and token.
        let expected = 6.0 * 10.6e6 * 100.0 * 32.0 * (12.0 + 2.0 * 102.0);
        assert!((needs.train_flops / expected - 1.0).abs() < 1e-9);
    }

    #[test]
    fn more_passages_need_more_disk_and_no_more_memory() {
        let recipe = Recipe::default();
        let of = |passages| needs(&recipe, MINILM, &manifest(passages, 3200));
        let (few, many) = (of(2000), of(10_000_000));
        assert_eq!(few.memory(1), many.memory(1));
        // Those kept, the one being made and the verdict's, of 384 fp16 a passage.
        let generations = recipe.refresh.keep_generations as f64 + 2.0;
        assert!(many.disk > generations * 1e7 * 768.0);
    }

    #[test]
    fn a_run_that_cannot_fit_is_refused_with_the_keys_to_change() {
        let recipe = Recipe::default();
        let needs = needs(&recipe, MINILM, &manifest(2000, 3200));
        refuse_if_too_large(&recipe, &needs, &machine(24.0, 100.0)).unwrap();
        let message = refuse_if_too_large(&recipe, &needs, &machine(0.5, 100.0))
            .unwrap_err()
            .to_string();
        assert!(message.contains("train.accumulation"), "{message}");
        let message = refuse_if_too_large(&recipe, &needs, &machine(24.0, 0.1))
            .unwrap_err()
            .to_string();
        assert!(message.contains("refresh.keep_generations"), "{message}");
    }

    #[test]
    fn candidates_are_no_more_than_the_passages_and_named_when_they_fill_the_disk() {
        let mut recipe = Recipe::default();
        recipe.mining.depth = 2000;
        let all = needs(&recipe, MINILM, &manifest(2000, 3200));
        recipe.mining.depth = 1_000_000_000;
        let more = needs(&recipe, MINILM, &manifest(2000, 3200));
        assert_eq!((more.disk, more.candidates), (all.disk, all.candidates));

        let large = needs(&recipe, MINILM, &manifest(1_000_000, 500_000));
        let message = refuse_if_too_large(&recipe, &large, &machine(24.0, 100.0))
            .unwrap_err()
            .to_string();
        assert!(message.contains("lower mining.depth"), "{message}");
    }
}
