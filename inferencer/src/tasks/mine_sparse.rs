//! `MineSparse`: BM25 candidates of a block over the whole corpus, filtered to
//! negatives, or scored as a run for the dev block. How generation 0 is made.

use crate::bm25;
use crate::error::{Result, TaskError};
use crate::progress::Progress;
use crate::tasks::evaluation;
use crate::tasks::negatives::{self, Scores};
use crate::workshop::Workshop;
use quarry_corpus::{CandidateList, QuerySet};
use quarry_index::{Hit, SparseIndex};
use quarry_proto::{Block, Task, TaskOutput};
use std::ops::Range;
use std::sync::Arc;

pub(crate) fn run(
    shop: &mut Workshop,
    task: &Task,
    block: &Block,
    evaluate: bool,
    progress: &Progress,
) -> Result<TaskOutput> {
    let (queries, range) = shop.collection.block(&shop.depot, block)?;
    let corpus = shop.collection.corpus(&shop.depot)?;
    let index = match &shop.sparse {
        Some(index) => Arc::clone(index),
        None => {
            let language = &shop.recipe.data.language;
            Arc::new(bm25::open(
                &shop.depot,
                &mut shop.collection,
                language,
                progress,
            )?)
        }
    };
    shop.sparse = Some(Arc::clone(&index));
    let depth = negatives::depth(shop.recipe.mining.depth, &queries, range.clone());
    progress.begin(range.len());
    let found = search(
        &index,
        &queries,
        range.clone(),
        depth,
        shop.threads,
        progress,
    )?;
    if evaluate {
        return evaluation::publish(shop, task, block, &queries, range, &corpus, &found);
    }
    let lists = range
        .zip(&found)
        .map(|(query, hits)| Ok(list(&queries, query, hits)));
    negatives::publish(shop, task, block, &corpus, lists, Scores::Sparse)
}

/// The best `depth` passages of each query, on `threads` threads; each query's
/// result depends on the query alone.
fn search(
    index: &SparseIndex,
    queries: &QuerySet,
    range: Range<usize>,
    depth: usize,
    threads: usize,
    progress: &Progress,
) -> Result<Vec<Vec<Hit>>> {
    let all: Vec<usize> = range.collect();
    let share = all.len().div_ceil(threads.max(1)).max(1);
    let work = |share: &[usize]| -> Result<Vec<Vec<Hit>>> {
        let one = |&query: &usize| {
            let hits = index.search(queries.text(query), depth)?;
            progress.advance(1)?;
            Ok(hits)
        };
        share.iter().map(one).collect()
    };
    std::thread::scope(|scope| {
        let shares: Vec<_> = all
            .chunks(share)
            .map(|share| scope.spawn(move || work(share)))
            .collect();
        let mut found = Vec::with_capacity(all.len());
        for share in shares {
            let died = |_| TaskError::Panicked("a search thread died".to_owned());
            found.extend(share.join().map_err(died)??);
        }
        Ok(found)
    })
}

/// The hits as candidates; a positive that is not among them scores 0.
fn list(queries: &QuerySet, query: usize, hits: &[Hit]) -> CandidateList {
    let positives = queries.known_positives(query);
    let score = |row: &u32| {
        hits.iter()
            .find(|hit| hit.row == *row)
            .map_or(0.0, |hit| hit.score)
    };
    CandidateList {
        query: query as u32,
        rows: hits.iter().map(|hit| hit.row).collect(),
        scores: hits.iter().map(|hit| hit.score).collect(),
        positive_scores: positives.iter().map(score).collect(),
        positives,
    }
}
