//! `MergeBlock`: the candidates of all partitions to one list a query, then
//! either filtered to negatives or, for the dev block, scored as a run.

use crate::error::{Result, refuse};
use crate::progress::Progress;
use crate::tasks::evaluation;
use crate::tasks::negatives::{self, Scores};
use crate::workshop::Workshop;
use quarry_artifacts::ObjectRef;
use quarry_corpus::{CandidateList, Candidates, QuerySet};
use quarry_index::{Hit, merge};
use quarry_proto::{Block, Task, TaskOutput};
use std::ops::Range;

pub(crate) fn run(
    shop: &mut Workshop,
    task: &Task,
    block: &Block,
    candidates: &[ObjectRef],
    evaluate: bool,
    progress: &Progress,
) -> Result<TaskOutput> {
    let (queries, range) = shop.collection.block(&shop.depot, block)?;
    let corpus = shop.collection.corpus(&shop.depot)?;
    let partitions = candidates
        .iter()
        .map(|object| read(shop, object, &range))
        .collect::<Result<Vec<_>>>()?;
    let depth = negatives::depth(shop.recipe.mining.depth, &queries, range.clone());
    progress.begin(range.len());
    let mut merged = Vec::with_capacity(range.len());
    for (i, query) in range.clone().enumerate() {
        let list = join(
            partitions.iter().map(|lists| &lists[i]),
            query as u32,
            depth,
        );
        complete(&list, &queries, query, block)?;
        merged.push(list);
        progress.advance(1)?;
    }
    if evaluate {
        let found: Vec<Vec<Hit>> = merged.iter().map(hits).collect();
        return evaluation::publish(shop, task, block, &queries, range, &corpus, &found);
    }
    negatives::publish(shop, task, block, &corpus, &merged, Scores::Dense)
}

/// One partition's lists, one for each query of the block.
fn read(shop: &Workshop, object: &ObjectRef, range: &Range<usize>) -> Result<Vec<CandidateList>> {
    let file = shop.depot.fetch(object)?;
    let lists = Candidates::read(file.path())?;
    let expected = range.clone().map(|query| query as u32);
    if !lists.iter().map(|list| list.query).eq(expected) {
        return refuse(format!(
            "candidates {} are not those of queries {range:?}; search the block again",
            object.path
        ));
    }
    Ok(lists)
}

/// The best `depth` of all partitions, and the positives of all, by row.
fn join<'a>(
    lists: impl Iterator<Item = &'a CandidateList>,
    query: u32,
    depth: usize,
) -> CandidateList {
    let (mut found, mut positives) = (Vec::new(), Vec::new());
    for list in lists {
        found.push(hits(list));
        positives.extend(
            list.positives
                .iter()
                .copied()
                .zip(list.positive_scores.iter().copied()),
        );
    }
    positives.sort_by_key(|&(row, _)| row);
    let best = merge(found, depth);
    let (positives, positive_scores) = positives.into_iter().unzip();
    CandidateList {
        query,
        rows: best.iter().map(|hit| hit.row).collect(),
        scores: best.iter().map(|hit| hit.score).collect(),
        positives,
        positive_scores,
    }
}

fn hits(list: &CandidateList) -> Vec<Hit> {
    let pairs = list.rows.iter().zip(&list.scores);
    pairs.map(|(&row, &score)| Hit { row, score }).collect()
}

/// Every known positive must have been scored by exactly one partition (law 8).
fn complete(list: &CandidateList, queries: &QuerySet, query: usize, block: &Block) -> Result<()> {
    let expected = queries.known_positives(query);
    if list.positives == expected {
        return Ok(());
    }
    refuse(format!(
        "query {:?} of block {block} has {} known positives but the candidates score {}; a partition is missing or given twice",
        queries.id(query),
        expected.len(),
        list.positives.len()
    ))
}
