//! From recipe and corpus to the tasks of a generation and what each waits for.
//!
//! The plan is a pure function of [`Settings`] and the kind, so the log need
//! not hold it: a replay plans again. Tasks are numbered in the order they
//! should be done, and wait only for lower numbers.

use super::settings::Settings;
use quarry_artifacts::GenerationKind;
use quarry_proto::{Block, Work};

/// The tasks of one generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// By number.
    pub tasks: Vec<Planned>,
    /// For each task, the tasks that wait for it.
    pub dependents: Vec<Vec<u32>>,
}

/// One task, its inputs not yet known.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// What to do; the objects to do it from are empty.
    pub work: Work,
    /// Tasks whose outputs it takes, in the order it takes them.
    pub needs: Vec<u32>,
}

impl Plan {
    /// Plans a generation.
    #[must_use]
    pub fn new(settings: &Settings, kind: GenerationKind) -> Self {
        let tasks = match kind {
            GenerationKind::Bm25 => sparse(settings),
            GenerationKind::Dense => dense(settings),
        };
        let mut dependents = vec![Vec::new(); tasks.len()];
        for (number, task) in tasks.iter().enumerate() {
            for need in &task.needs {
                dependents[*need as usize].push(number as u32);
            }
        }
        Self { tasks, dependents }
    }

    /// Number of tasks.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.tasks.len() as u32
    }

    /// Never: every run has a dev block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

/// The blocks of a generation: slices of the train split, then the dev split as
/// one block that is also evaluated.
#[must_use]
pub fn blocks(settings: &Settings) -> Vec<(Block, bool)> {
    let data = &settings.recipe.data;
    let total = settings.queries(&data.train);
    let size = u32::try_from(data.block_queries).unwrap_or(u32::MAX).max(1);
    let mut blocks = Vec::new();
    let mut first_query = 0;
    while first_query < total {
        let queries = size.min(total - first_query);
        let split = data.train.clone();
        blocks.push((
            Block {
                split,
                first_query,
                queries,
            },
            false,
        ));
        first_query += queries;
    }
    let dev = Block {
        split: data.dev.clone(),
        first_query: 0,
        queries: settings.queries(&data.dev),
    };
    blocks.push((dev, true));
    blocks
}

/// Shards of each partition: whole shards until `index.partition_passages` is
/// reached.
#[must_use]
pub fn partitions(settings: &Settings) -> Vec<Vec<u32>> {
    let full = settings.recipe.index.partition_passages as u64;
    let mut partitions = Vec::new();
    let mut shards = Vec::new();
    let mut passages = 0;
    for (shard, shape) in settings.shape.shards.iter().enumerate() {
        shards.push(shard as u32);
        passages += u64::from(shape.passages);
        if passages >= full {
            partitions.push(std::mem::take(&mut shards));
            passages = 0;
        }
    }
    if !shards.is_empty() {
        partitions.push(shards);
    }
    partitions
}

fn sparse(settings: &Settings) -> Vec<Planned> {
    let mine = |(block, evaluate)| Planned {
        work: Work::MineSparse { block, evaluate },
        needs: Vec::new(),
    };
    blocks(settings).into_iter().map(mine).collect()
}

fn dense(settings: &Settings) -> Vec<Planned> {
    let blocks = blocks(settings);
    let partitions = partitions(settings);
    let mut tasks: Vec<Planned> = Vec::new();
    let mut add = |work, needs| {
        tasks.push(Planned { work, needs });
        tasks.len() as u32 - 1
    };
    let queries: Vec<u32> = blocks
        .iter()
        .map(|(block, _)| {
            add(
                Work::EncodeQueries {
                    block: block.clone(),
                },
                vec![],
            )
        })
        .collect();
    let shards: Vec<u32> = (0..settings.shape.shards.len() as u32)
        .map(|shard| add(Work::EncodeShard { shard }, vec![]))
        .collect();
    let encoded = |partition: &Vec<u32>| -> Vec<u32> {
        partition.iter().map(|s| shards[*s as usize]).collect()
    };
    let mut indexes = Vec::new();
    if settings.recipe.index.kind != "exact" {
        for (partition, members) in partitions.iter().enumerate() {
            let work = Work::BuildPartition {
                partition: partition as u32,
                embeddings: vec![],
            };
            indexes.push(add(work, encoded(members)));
        }
    }
    let mut searches = vec![Vec::new(); blocks.len()];
    for (partition, members) in partitions.iter().enumerate() {
        for (b, (block, _)) in blocks.iter().enumerate() {
            let mut needs = vec![queries[b]];
            needs.extend(encoded(members));
            needs.extend(indexes.get(partition));
            let work = Work::SearchBlock {
                block: block.clone(),
                partition: partition as u32,
                query_embeddings: vec![],
                embeddings: vec![],
                index: None,
            };
            searches[b].push(add(work, needs));
        }
    }
    for ((block, evaluate), needs) in blocks.into_iter().zip(searches) {
        let work = Work::MergeBlock {
            block,
            candidates: vec![],
            evaluate,
        };
        add(work, needs);
    }
    tasks
}
