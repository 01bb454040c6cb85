//! Which tasks a generation is made of, and what flows between them.

use crate::fixture::{Bench, settings};
use quarry_artifacts::{Digest, GenerationKind};
use quarry_coordinator::state::{CorpusShape, Plan, Settings, blocks, partitions};
use quarry_proto::Work;
use quarry_recipe::Recipe;

#[test]
fn blocks_cover_the_train_split_and_dev_is_one_evaluated_block() {
    let blocks = blocks(&settings(|_| {}));
    let shown: Vec<String> = blocks.iter().map(|(b, e)| format!("{b} {e}")).collect();
    let expected = [
        "train[0..10] false",
        "train[10..20] false",
        "train[20..25] false",
        "dev[0..5] true",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn partitions_are_whole_shards() {
    let of = |passages| partitions(&settings(|r| r.index.partition_passages = passages));
    assert_eq!(of(200), vec![vec![0, 1], vec![2]]);
    assert_eq!(of(150), vec![vec![0, 1], vec![2]]);
    assert_eq!(of(1), vec![vec![0], vec![1], vec![2]]);
    assert_eq!(of(4_000_000), vec![vec![0, 1, 2]]);
}

#[test]
fn a_dense_plan_has_every_stage_and_an_index_only_if_not_exact() {
    let exact = Plan::new(&settings(|_| {}), GenerationKind::Dense);
    // 4 blocks to encode, 3 shards, 2 × 4 searches, 4 merges.
    assert_eq!(exact.len(), 4 + 3 + 8 + 4);
    let ivf = Plan::new(
        &settings(|r| r.index.kind = "IVF16,Flat".into()),
        GenerationKind::Dense,
    );
    assert_eq!(ivf.len(), 4 + 3 + 2 + 8 + 4);
    let sparse = Plan::new(&settings(|_| {}), GenerationKind::Bm25);
    assert_eq!(sparse.len(), 4);
    for plan in [exact, ivf, sparse] {
        for (number, task) in plan.tasks.iter().enumerate() {
            assert!(task.needs.iter().all(|need| (*need as usize) < number));
        }
    }
}

#[test]
fn inputs_are_the_outputs_of_the_tasks_waited_for_in_order() {
    let mut bench = Bench::new(settings(|r| r.index.kind = "IVF16,Flat".into()));
    bench.complete();
    let tasks = bench.work_off("w");
    let embeddings: Vec<_> = tasks
        .iter()
        .filter(|t| matches!(t.work, Work::EncodeShard { .. }))
        .map(|t| crate::fixture::output(t).outputs[0].1.clone())
        .collect();
    let mut searches = 0;
    for task in &tasks {
        match &task.work {
            Work::BuildPartition {
                partition,
                embeddings: given,
            } => {
                let expected = if *partition == 0 {
                    &embeddings[..2]
                } else {
                    &embeddings[2..]
                };
                assert_eq!(given, expected);
            }
            Work::SearchBlock {
                partition,
                query_embeddings,
                embeddings: given,
                index,
                ..
            } => {
                searches += 1;
                assert_eq!(query_embeddings.len(), 1);
                assert_eq!(given.len(), if *partition == 0 { 2 } else { 1 });
                assert!(index.is_some());
            }
            Work::MergeBlock { candidates, .. } => assert_eq!(candidates.len(), 2),
            _ => {}
        }
    }
    assert_eq!(searches, 8);
}

#[test]
fn a_corpus_without_the_recipes_splits_is_refused_with_the_key() {
    let shape: CorpusShape = serde_json::from_str(
        r#"{"shards": [{"passages": 3, "file": "x"}], "queries": {"train": {"queries": 4}}, "format": "beir"}"#,
    )
    .unwrap();
    let error = Settings::new(Recipe::default(), Digest::of(b""), shape)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`dev`") && error.contains("data.dev") && error.contains("train"),
        "{error}"
    );
}
