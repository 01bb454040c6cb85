//! BM25 mining and its dev scores against the formula, by brute force.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_corpus::{Corpus, NegativesBlock, QuerySet};
use quarry_proto::{Role, Work};
use std::collections::{BTreeMap, BTreeSet};
use support::{DUPLICATE, TinyRun, dev, train};

const K1: f64 = 1.2;
const B: f64 = 0.75;

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// `(row, score)` of every passage that shares a word, best first; k1 = 1.2,
/// b = 0.75, idf = ln(1 + (N − n + ½)/(n + ½)), scores times k1 + 1.
fn bm25(query: &str, passages: &[Vec<&str>]) -> Vec<(u32, f64)> {
    let n = passages.len() as f64;
    let average = passages.iter().map(Vec::len).sum::<usize>() as f64 / n;
    let mut scores = BTreeMap::<u32, f64>::new();
    for word in words(query) {
        let holders = passages.iter().filter(|p| p.contains(&word)).count() as f64;
        let idf = (1.0 + (n - holders + 0.5) / (holders + 0.5)).ln();
        for (row, passage) in passages.iter().enumerate() {
            let tf = passage.iter().filter(|w| **w == word).count() as f64;
            if tf > 0.0 {
                let norm = K1 * (1.0 - B + B * passage.len() as f64 / average);
                *scores.entry(row as u32).or_default() += idf * (K1 + 1.0) * tf / (tf + norm);
            }
        }
    }
    let mut ranked: Vec<_> = scores.into_iter().collect();
    ranked.sort_by(|a, b| (b.1 as f32).total_cmp(&(a.1 as f32)).then(a.0.cmp(&b.0)));
    ranked
}

struct Collection {
    corpus: Corpus,
    train: QuerySet,
    dev: QuerySet,
}

fn collection(tiny: &TinyRun) -> Collection {
    let prepared = tiny.folder.path().join("prepared");
    let paths: Vec<_> = tiny
        .manifest
        .shards
        .iter()
        .map(|s| prepared.join(&s.file))
        .collect();
    let set =
        |split: &str| QuerySet::open(&prepared.join(&tiny.manifest.queries[split].file)).unwrap();
    Collection {
        corpus: Corpus::open(&paths).unwrap(),
        train: set("train"),
        dev: set("dev"),
    }
}

/// The positives of every query that asks what query `q` asks, by row.
fn known_positives(queries: &QuerySet, q: usize) -> Vec<u32> {
    let twins = (0..queries.len()).filter(|other| queries.text(*other) == queries.text(q));
    let rows: BTreeSet<u32> = twins.flat_map(|twin| queries.positives(twin)).collect();
    rows.into_iter().collect()
}

#[test]
fn negatives_equal_the_formula() {
    let mut tiny = TinyRun::new(|_| ());
    let Collection {
        corpus,
        train: queries,
        ..
    } = collection(&tiny);
    let passages: Vec<Vec<&str>> = corpus.texts().map(|(_, text)| words(text)).collect();
    let output = tiny
        .perform(Work::MineSparse {
            block: train(),
            evaluate: false,
        })
        .unwrap();
    let block =
        NegativesBlock::open(&tiny.local(output.of(Role::Negatives).next().unwrap())).unwrap();
    let mining = &tiny.recipe.mining;
    let (mut duplicates, mut masked) = (0, 0);
    assert_eq!(block.len(), 12);
    for q in 0..block.len() {
        let ranked = bm25(queries.text(q), &passages);
        let positives = known_positives(&queries, q);
        let mut expected = Vec::new();
        for (row, score) in ranked.iter().take(mining.depth + positives.len()) {
            let repeats = positives
                .iter()
                .any(|p| corpus.text(*p) == corpus.text(*row));
            if positives.contains(row) {
                masked += 1;
            } else if repeats {
                duplicates += 1;
            } else {
                expected.push((*row, *score));
            }
        }
        expected.truncate(mining.keep);
        // Scores that tie in real numbers may differ in the last bit of an f32.
        assert_eq!(block.negatives(q).len(), expected.len());
        for ((row, score), (r, s)) in block
            .negatives(q)
            .iter()
            .zip(block.scores(q))
            .zip(&expected)
        {
            assert!(
                (f64::from(*score) - s).abs() < 1e-4,
                "query {q}: {row} {score}, expected {r} {s}"
            );
        }
        assert_eq!(block.positives(q), positives);
    }
    assert_eq!(
        (
            output.counts["text_duplicates"],
            output.counts["positives_masked"]
        ),
        (duplicates, masked)
    );
    assert!(masked > block.len() as u64);
    assert!(!block.negatives(0).contains(&DUPLICATE));
}

#[test]
fn a_positive_that_was_not_found_sets_no_ceiling() {
    let ratio = 0.5;
    let mut tiny = TinyRun::new(|r| r.mining.sparse_max_positive_ratio = ratio);
    let work = Work::MineSparse {
        block: train(),
        evaluate: false,
    };
    let output = tiny.perform(work).unwrap();
    let object = output.of(Role::Negatives).next().unwrap();
    let block = NegativesBlock::open(&tiny.local(object)).unwrap();
    // Query 1 has two positives; the second shares no word with it.
    let found: Vec<f32> = block
        .positive_scores(1)
        .iter()
        .copied()
        .filter(|s| *s > 0.0)
        .collect();
    assert_eq!((block.positives(1).len(), found.len()), (2, 1));
    let ceiling = found[0] * ratio;
    assert!(!block.negatives(1).is_empty());
    assert!(
        block.scores(1).iter().all(|score| *score < ceiling),
        "{ceiling} {:?}",
        block.scores(1)
    );
    assert!(output.counts["above_positive"] > 0);
}

#[test]
fn the_dev_block_is_scored_and_the_index_is_built_once() {
    let mut tiny = TinyRun::new(|_| ());
    let Collection {
        corpus,
        dev: queries,
        ..
    } = collection(&tiny);
    let passages: Vec<Vec<&str>> = corpus.texts().map(|(_, text)| words(text)).collect();
    let work = Work::MineSparse {
        block: dev(),
        evaluate: true,
    };
    let output = tiny.perform(work.clone()).unwrap();
    let mut reciprocal = 0.0;
    for q in 0..queries.len() {
        let positive = queries.positives(q).next().unwrap();
        let rank = bm25(queries.text(q), &passages)
            .iter()
            .position(|(row, _)| *row == positive)
            .unwrap();
        reciprocal += if rank < 10 {
            1.0 / (rank + 1) as f64
        } else {
            0.0
        };
    }
    assert!(
        (output.metrics["mrr@10"] - reciprocal / 6.0).abs() < 1e-9,
        "{:?}",
        output.metrics
    );
    assert!(output.of(Role::Run).count() == 1 && output.of(Role::Metrics).count() == 1);

    // A second worker of the machine opens the index that lies in the shared cache.
    let bm25 = tiny.folder.path().join("cache").join("bm25");
    let names = || {
        std::fs::read_dir(&bm25)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    let before = names();
    let cache = tiny.folder.path().join("cache");
    tiny.shop = support::workshop(&tiny.runtime, &tiny.store, &tiny.run, &cache);
    let again = tiny.perform(work).unwrap();
    assert_eq!(again, output);
    assert_eq!(names().len(), before.len());
}
