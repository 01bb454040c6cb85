//! `SearchBlock`: the best passages of one partition for each query of a block,
//! and the score of every known positive that lies in the partition.
//!
//! Searches deep enough that `mining.depth` candidates are left after the
//! positives are taken out, so a merge of partitions equals one partition.

use crate::error::{Result, refuse};
use crate::progress::Progress;
use crate::tasks::partition::Rows;
use crate::tasks::{negatives, one, stem};
use crate::workshop::Workshop;
use quarry_artifacts::{Digest, ObjectRef, layout};
use quarry_corpus::{CandidateList, Candidates, QuerySet};
use quarry_index::{ExactIndex, FaissIndex, Search, score_rows};
use quarry_proto::{Block, Role, Task, TaskOutput};
use std::ops::Range;
use std::sync::Arc;

/// Queries times passages between two looks at the cancellation on a CPU: some seconds.
const CPU_SCORES: usize = 1 << 31;
/// Fewest and most queries between two looks there. Each time the passages become f32 anew.
const CPU_TILE: (usize, usize) = (512, 4096);
/// Queries between two looks on a GPU, where small tiles leave it idle.
const GPU_TILE: usize = 8192;

/// Inputs of the task.
pub(crate) struct SearchBlock<'a> {
    pub block: &'a Block,
    pub partition: u32,
    pub query_embeddings: &'a [ObjectRef],
    pub embeddings: &'a [ObjectRef],
    pub index: Option<&'a ObjectRef>,
}

pub(crate) fn run(
    shop: &mut Workshop,
    task: &Task,
    work: &SearchBlock<'_>,
    progress: &Progress,
) -> Result<TaskOutput> {
    let (block, partition) = (work.block, work.partition);
    let (queries, range) = shop.collection.block(&shop.depot, block)?;
    let vectors = Rows::open(&shop.depot, work.query_embeddings, &task.checkpoint)?;
    let passages = Rows::open(&shop.depot, work.embeddings, &task.checkpoint)?;
    fit(block, &vectors, &passages)?;
    let depth = negatives::depth(shop.recipe.mining.depth, &queries, range.clone());
    let index = open_index(shop, work, &passages)?;
    let tile = match shop.device.is_cuda() {
        true => GPU_TILE,
        false => (CPU_SCORES / passages.len().max(1)).clamp(CPU_TILE.0, CPU_TILE.1),
    };
    let vectors = vectors.to_f32();

    progress.begin(range.len());
    let mut lists = Vec::with_capacity(range.len());
    for tile in vectors.chunks(tile * passages.width()) {
        progress.check()?;
        let found = index.search(tile, depth.min(passages.len()))?;
        for (hits, vector) in found.into_iter().zip(tile.chunks_exact(passages.width())) {
            let query = range.start + lists.len();
            let (positives, positive_scores) = score_positives(&queries, query, vector, &passages);
            lists.push(CandidateList {
                query: query as u32,
                rows: hits.iter().map(|hit| hit.row).collect(),
                scores: hits.iter().map(|hit| hit.score).collect(),
                positives,
                positive_scores,
            });
        }
        progress.advance(tile.len() / passages.width())?;
    }
    let folder = layout::generation_candidates(task.generation);
    let stem = format!("{}-partition-{partition:05}", stem(block));
    let write = |path: &std::path::Path| Candidates::write(path, &lists);
    Ok(one(
        Role::Candidates,
        shop.depot.publish(&folder, &stem, "arrow", write)?,
    ))
}

/// The query vectors must be those of the block, of the passages' width.
fn fit(block: &Block, vectors: &Rows, passages: &Rows) -> Result<()> {
    let expected: Range<u32> = block.first_query..block.first_query + block.queries;
    if vectors.range() != expected {
        return refuse(format!(
            "the query embeddings cover rows {:?} but the block is {block}; encode the block again",
            vectors.range()
        ));
    }
    if vectors.width() != passages.width() {
        return refuse(format!(
            "query vectors have width {} and passage vectors {}; both towers must agree",
            vectors.width(),
            passages.width()
        ));
    }
    Ok(())
}

/// Exact search over the mapped vectors, or the partition's index. It stays
/// loaded for the next block.
fn open_index(
    shop: &mut Workshop,
    work: &SearchBlock<'_>,
    passages: &Rows,
) -> Result<Arc<dyn Search>> {
    let objects = work.index.into_iter().chain(work.embeddings);
    let key: Vec<Digest> = objects.map(|object| object.sha256.clone()).collect();
    if let Some((loaded, index)) = &shop.index
        && *loaded == key
    {
        return Ok(Arc::clone(index));
    }
    // Dropped first: two indexes may not fit the device.
    shop.index = None;
    let index: Arc<dyn Search> = match work.index {
        None => Arc::new(ExactIndex::new(passages.parts().to_vec(), shop.device)?),
        Some(object) => Arc::new(read_index(shop, object, passages)?),
    };
    shop.index = Some((key, Arc::clone(&index)));
    Ok(index)
}

fn read_index(shop: &Workshop, object: &ObjectRef, passages: &Rows) -> Result<FaissIndex> {
    let index = FaissIndex::read(shop.depot.fetch(object)?.path())?;
    let found = (index.first_row(), index.len(), index.dim());
    if found == (passages.range().start, passages.len(), passages.width()) {
        return Ok(index);
    }
    refuse(format!(
        "index {} holds {} rows of width {} from row {}, not those of its partition; build it again",
        object.path, found.1, found.2, found.0
    ))
}

/// The query's known positives inside the partition, by row, and their scores.
fn score_positives(
    queries: &QuerySet,
    query: usize,
    vector: &[f32],
    passages: &Rows,
) -> (Vec<u32>, Vec<f32>) {
    let positives = queries.known_positives(query);
    let scores = score_rows(passages.parts(), vector, &positives);
    let inside = positives.into_iter().zip(scores);
    inside
        .filter_map(|(row, score)| Some((row, score?)))
        .unzip()
}
