//! The dev block: its run as a TREC file and its metrics, by the rules of
//! trec_eval. The same search that mines negatives scores the checkpoint.

use crate::collection::MappedCorpus;
use crate::error::{Result, TaskError};
use crate::tasks::stem;
use crate::workshop::Workshop;
use quarry_artifacts::layout;
use quarry_corpus::QuerySet;
use quarry_eval::{Evaluation, Metric, Qrels, Run, evaluate, write_run};
use quarry_index::Hit;
use quarry_proto::{Block, Role, Task, TaskOutput};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;

/// Most passages a query has in the run; deeper metrics are not reported.
const RUN_DEPTH: usize = 1000;

/// `metrics.json` of a generation.
#[derive(Serialize)]
struct Document<'a> {
    generation: u64,
    checkpoint: &'a str,
    step: u64,
    split: &'a str,
    #[serde(flatten)]
    evaluation: &'a Evaluation,
}

/// Scores the hits of a block's queries and publishes run and metrics.
pub(super) fn publish(
    shop: &Workshop,
    task: &Task,
    block: &Block,
    queries: &QuerySet,
    range: Range<usize>,
    corpus: &MappedCorpus,
    found: &[Vec<Hit>],
) -> Result<TaskOutput> {
    let run = run_of(queries, range.clone(), corpus, found, depth(shop))?;
    let evaluation = evaluate(
        &qrels_of(queries, range.clone(), corpus)?,
        &run,
        &Metric::DEFAULT,
    );
    let whole = range == (0..queries.len());
    let name = if whole {
        block.split.clone()
    } else {
        stem(block)
    };
    let folder = layout::generation_runs(task.generation);
    let tag = format!("quarry-{}", task.generation);
    let run = shop
        .depot
        .publish(&folder, &name, "trec", |path| write_run(path, &run, &tag))?;
    let metrics = document(shop, task, block, &evaluation)?;
    Ok(TaskOutput {
        outputs: vec![(Role::Run, run), (Role::Metrics, metrics)],
        counts: BTreeMap::from([("evaluated_queries".to_owned(), evaluation.queries as u64)]),
        metrics: evaluation.means,
    })
}

/// Passages of each query that count.
pub(super) fn depth(shop: &Workshop) -> usize {
    shop.recipe.mining.depth.min(RUN_DEPTH)
}

fn document(
    shop: &Workshop,
    task: &Task,
    block: &Block,
    evaluation: &Evaluation,
) -> Result<quarry_artifacts::ObjectRef> {
    let document = Document {
        generation: task.generation,
        checkpoint: task.checkpoint.digest.as_str(),
        step: task.checkpoint.step,
        split: &block.split,
        evaluation,
    };
    let bytes = serde_json::to_vec_pretty(&document)
        .map_err(|e| TaskError::Refused(format!("the metrics of {block} are no JSON: {e}")))?;
    let folder = layout::generation_folder(task.generation);
    shop.depot.publish_bytes(&folder, "metrics", "json", bytes)
}

fn run_of(
    queries: &QuerySet,
    range: Range<usize>,
    corpus: &MappedCorpus,
    found: &[Vec<Hit>],
    depth: usize,
) -> Result<Run> {
    let mut run = Run::default();
    for (query, hits) in range.zip(found) {
        for hit in hits.iter().take(depth) {
            run.insert(queries.id(query), corpus.passages.id(hit.row), hit.score)?;
        }
    }
    Ok(run)
}

fn qrels_of(queries: &QuerySet, range: Range<usize>, corpus: &MappedCorpus) -> Result<Qrels> {
    let mut qrels = Qrels::default();
    for query in range {
        let (rows, grades) = queries.judged(query);
        for (&row, &grade) in rows.iter().zip(grades) {
            qrels.insert(queries.id(query), corpus.passages.id(row), grade)?;
        }
    }
    Ok(qrels)
}
