//! Columns and masks of a micro-batch, by hand.
#![allow(clippy::unwrap_used)]

use quarry_recipe::{Draw, Loss, Recipe};
use quarry_trainer::batches::{Batch, Batches, Judgements, Mined};
use std::collections::BTreeSet;

/// Query `q` has the positive `q`; query 0 also 7, whose text equals that of 8.
struct Three(Vec<Vec<u32>>);

impl Judgements for Three {
    fn positives(&self, query: u32) -> Vec<u32> {
        match query {
            0 => vec![0, 7],
            9 => vec![],
            _ => vec![query],
        }
    }

    fn text_hash(&self, row: u32) -> u64 {
        u64::from(if row == 8 { 7 } else { row })
    }
}

impl Mined for Three {
    fn negatives(&self, query: u32) -> &[u32] {
        &self.0[query as usize]
    }
}

fn recipe(change: impl Fn(&mut Recipe)) -> Recipe {
    let mut recipe = Recipe::default();
    recipe.train.batch_size = 3;
    recipe.train.negatives = 2;
    recipe.mining.draw = Draw::Top;
    change(&mut recipe);
    recipe
}

/// The whole training set as one batch, and each query's place in it.
fn batch(change: impl Fn(&mut Recipe)) -> (Batch, Vec<usize>) {
    let table = Three(vec![vec![8, 5, 6], vec![5, 0], vec![5]]);
    let batch = Batches::new(&recipe(change), 3)
        .unwrap()
        .batch(0, &table, &table)
        .unwrap();
    let places = (0..3)
        .map(|q| {
            batch.micros[0]
                .queries
                .iter()
                .position(|found| *found == q)
                .unwrap()
        })
        .collect();
    (batch, places)
}

/// (query, row) of every masked pair, leaving out a query's own target.
fn masked(batch: &Batch) -> BTreeSet<(u32, u32)> {
    let columns = &batch.micros[0];
    let row = |column: usize| columns.passages[columns.passage_of[column] as usize];
    let pairs = (0..columns.masked.len()).filter(|at| columns.masked[*at]);
    pairs
        .map(|at| {
            (
                columns.queries[at / columns.width()],
                row(at % columns.width()),
            )
        })
        .collect()
}

#[test]
fn a_judged_positive_is_masked_wherever_it_stands() {
    let (batch, place) = batch(|_| {});
    let columns = &batch.micros[0];
    let target = columns.passages[columns.passage_of[columns.targets[place[0]] as usize] as usize];
    assert!([0, 7].contains(&target), "query 0 has positives 0 and 7");
    // 8 repeats the text of 7, and 0 is mined for query 1; one of 0 and 7 is query
    // 0's target, which is not masked in its own column.
    assert_eq!(masked(&batch), BTreeSet::from([(0, 8), (0, 0)]));
    // 3 positives, 2 + 2 + 1 negatives; 5 is drawn three times and encoded once.
    assert_eq!((columns.width(), batch.short), (8, 1));
    assert_eq!(
        columns.passages.len(),
        columns.passages.iter().collect::<BTreeSet<_>>().len()
    );
    assert_eq!((columns.pairs, columns.false_negatives), (3 * 7, 2));
    for (query, target) in columns.targets.iter().enumerate() {
        assert!(!columns.masked[query * columns.width() + *target as usize]);
    }
}

#[test]
fn without_in_batch_negatives_only_own_columns_are_seen() {
    let (batch, place) = batch(|r| r.train.in_batch = false);
    let columns = &batch.micros[0];
    let seen = |query: usize| {
        let width = columns.width();
        columns.masked[place[query] * width..][..width]
            .iter()
            .filter(|m| !**m)
            .count()
    };
    // Query 0 sees its positive and 5 (8 is a false negative), 1 its three, 2 its two.
    assert_eq!((seen(0), seen(1), seen(2)), (2, 3, 2));
    assert_eq!((columns.pairs, columns.false_negatives), (5, 1));
}

#[test]
fn pairwise_groups_are_filled_up_with_masked_columns() {
    let (batch, place) = batch(|r| r.train.loss = Loss::Pairwise);
    let columns = &batch.micros[0];
    assert_eq!((columns.width(), batch.short), (9, 1));
    assert_eq!(
        (columns.pairs, columns.false_negatives, columns.open_pairs()),
        (5, 1, 4)
    );
    let target = columns.targets[place[2]] as usize;
    let padding = target + 2;
    assert_eq!(columns.passage_of[padding], columns.passage_of[target]);
    assert!(columns.masked[place[2] * 9 + padding]);
}

#[test]
fn micro_batches_share_the_batch() {
    let table = Three(vec![vec![8, 5, 6], vec![5, 0], vec![5]]);
    let recipe = recipe(|r| r.train.accumulation = 3);
    let batch = Batches::new(&recipe, 3)
        .unwrap()
        .batch(4, &table, &table)
        .unwrap();
    let queries: BTreeSet<u32> = batch
        .micros
        .iter()
        .flat_map(|m| m.queries.clone())
        .collect();
    assert_eq!((batch.micros.len(), queries.len()), (3, 3));
}

#[test]
fn a_query_without_a_positive_is_refused() {
    let table = Three(vec![Vec::new(); 10]);
    let recipe = recipe(|r| r.train.batch_size = 10);
    let refused = Batches::new(&recipe, 10)
        .unwrap()
        .batch(0, &table, &table)
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("training query 9 has no positive"),
        "{refused}"
    );
}
