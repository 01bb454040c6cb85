//! What a worker keeps between tasks: the run's recipe, the mapped collection,
//! the loaded model, the search structures. Hands each task to its module.

use crate::collection::Collection;
use crate::depot::Depot;
use crate::engine::Perform;
use crate::error::{Result, TaskError};
use crate::models::Models;
use crate::progress::Progress;
use crate::tasks::search_block::{self, SearchBlock};
use crate::tasks::{build_partition, encode_queries, encode_shard, merge_block, mine_sparse};
use quarry_artifacts::{Digest, RunDocument};
use quarry_index::{Search, SparseIndex};
use quarry_model::{LoadOptions, Pooling, Precision};
use quarry_proto::{Task, TaskOutput, Work};
use quarry_recipe::Recipe;
use quarry_service::cpu::has_native_bf16;
use std::sync::Arc;
use tch::Device;

/// Everything the tasks of one run share on one worker.
pub struct Workshop {
    pub(crate) recipe: Recipe,
    pub(crate) depot: Depot,
    pub(crate) device: Device,
    pub(crate) threads: usize,
    pub(crate) collection: Collection,
    pub(crate) models: Models,
    /// The partition searched last, under the digests of its objects.
    pub(crate) index: Option<(Vec<Digest>, Arc<dyn Search>)>,
    /// The BM25 index over the whole corpus.
    pub(crate) sparse: Option<Arc<SparseIndex>>,
}

impl Workshop {
    /// A workshop for `run` that computes on `device` with `threads` threads.
    ///
    /// # Errors
    /// If the run's recipe or corpus manifest cannot be read by this version.
    pub fn new(run: RunDocument, depot: Depot, device: Device, threads: usize) -> Result<Self> {
        let recipe: Recipe = serde_json::from_value(run.recipe).map_err(|e| {
            TaskError::Refused(format!(
                "the recipe in run.json cannot be read: {e}; use the version of quarry that started the run"
            ))
        })?;
        let collection = Collection::new(run.corpus)?;
        let options = LoadOptions {
            device,
            precision: precision(recipe.model.precision, device),
            pooling: match recipe.model.pooling {
                quarry_recipe::Pooling::Auto => None,
                quarry_recipe::Pooling::Cls => Some(Pooling::Cls),
                quarry_recipe::Pooling::Mean => Some(Pooling::Mean),
            },
            normalize: recipe.model.normalize,
            trainable: false,
        };
        let tokenizer = collection.manifest().tokenizer_digest.clone();
        Ok(Self {
            recipe,
            depot,
            device,
            threads,
            collection,
            models: Models::new(options, tokenizer),
            index: None,
            sparse: None,
        })
    }
}

impl Perform for Workshop {
    fn perform(&mut self, task: &Task, progress: &Progress) -> Result<TaskOutput> {
        if matches!(
            task.work,
            Work::EncodeQueries { .. } | Work::EncodeShard { .. }
        ) {
            // A new generation: its encoder needs the memory, the old index has no use.
            self.index = None;
        }
        match &task.work {
            Work::EncodeQueries { block } => encode_queries::run(self, task, block, progress),
            Work::EncodeShard { shard } => encode_shard::run(self, task, *shard, progress),
            Work::BuildPartition {
                partition,
                embeddings,
            } => build_partition::run(self, task, *partition, embeddings, progress),
            Work::SearchBlock {
                block,
                partition,
                query_embeddings,
                embeddings,
                index,
            } => {
                let work = SearchBlock {
                    block,
                    partition: *partition,
                    query_embeddings,
                    embeddings,
                    index: index.as_ref(),
                };
                search_block::run(self, task, &work, progress)
            }
            Work::MergeBlock {
                block,
                candidates,
                evaluate,
            } => merge_block::run(self, task, block, candidates, *evaluate, progress),
            Work::MineSparse { block, evaluate } => {
                mine_sparse::run(self, task, block, *evaluate, progress)
            }
        }
    }

    fn recover(&mut self) {
        self.models.clear();
        self.index = None;
        self.sparse = None;
    }
}

/// The recipe's precision on this device: `auto` is bf16 where it is native.
fn precision(wanted: quarry_recipe::Precision, device: Device) -> Precision {
    match wanted {
        quarry_recipe::Precision::F32 => Precision::F32,
        quarry_recipe::Precision::Bf16 => Precision::Bf16,
        quarry_recipe::Precision::Auto if device.is_cuda() || has_native_bf16() => Precision::Bf16,
        quarry_recipe::Precision::Auto => Precision::F32,
    }
}
