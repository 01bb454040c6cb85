//! `MergeBlock`: the candidates of all partitions to one list a query, then
//! either filtered to negatives or, for the dev block, scored as a run.

use crate::depot::Held;
use crate::error::{Result, refuse};
use crate::progress::Progress;
use crate::tasks::evaluation;
use crate::tasks::negatives::{self, Scores};
use crate::workshop::Workshop;
use quarry_artifacts::ObjectRef;
use quarry_corpus::{CandidateList, Candidates, NegativesBlock, QuerySet};
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
        .map(|object| open(shop, object, &range))
        .collect::<Result<Vec<_>>>()?;
    let depth = negatives::depth(shop.recipe.mining.depth, &queries, range.clone());
    progress.begin(range.len());
    // One query at a time: what stays in memory is what the filter keeps.
    let merged = range.clone().enumerate().map(|(i, query)| {
        let list = join(&partitions, i, query as u32, depth);
        complete(&list, &queries, query, block)?;
        progress.advance(1)?;
        Ok(list)
    });
    if evaluate {
        let found = merged
            .map(|list| list.map(|list| hits(&list.rows, &list.scores).collect()))
            .collect::<Result<Vec<Vec<Hit>>>>()?;
        return evaluation::publish(shop, task, block, &queries, range, &corpus, &found);
    }
    negatives::publish(shop, task, block, &corpus, merged, Scores::Dense)
}

/// One partition's lists, one for each query of the block, mapped: a block of all partitions may be more than memory
/// is to hold.
fn open(shop: &Workshop, object: &ObjectRef, range: &Range<usize>) -> Result<Held<NegativesBlock>> {
    let lists = Held::open(shop.depot.fetch(object)?, Candidates::open)?;
    let expected = range.clone().map(|query| query as u32);
    if !(0..lists.len()).map(|i| lists.query(i)).eq(expected) {
        return refuse(format!(
            "candidates {} are not those of queries {range:?}; search the block again",
            object.path
        ));
    }
    Ok(lists)
}

/// The best `depth` of all partitions for the block's `i`-th query, and the positives of all, by row.
fn join(partitions: &[Held<NegativesBlock>], i: usize, query: u32, depth: usize) -> CandidateList {
    let (mut found, mut positives) = (Vec::new(), Vec::new());
    for lists in partitions {
        found.push(hits(lists.negatives(i), lists.scores(i)).collect());
        let scores = lists.positive_scores(i).iter().copied();
        positives.extend(lists.positives(i).iter().copied().zip(scores));
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

fn hits<'a>(rows: &'a [u32], scores: &'a [f32]) -> impl Iterator<Item = Hit> + 'a {
    let pairs = rows.iter().zip(scores);
    pairs.map(|(&row, &score)| Hit { row, score })
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
