//! The dense pipeline, task by task, against brute force over fifty passages.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_corpus::{CandidateList, Corpus, Embeddings, NegativesBlock, QuerySet};
use quarry_inferencer::{Perform, Progress, TaskError};
use quarry_model::{DualEncoder, LoadOptions, PackedBatch, TextTokenizer};
use quarry_proto::{Block, Role, TaskOutput, Work};
use std::collections::BTreeSet;
use support::{DUPLICATE, PASSAGES, TinyRun, dev, train};

fn corpus(tiny: &TinyRun) -> Corpus {
    let paths: Vec<_> = tiny
        .manifest
        .shards
        .iter()
        .map(|s| tiny.folder.path().join("prepared").join(&s.file))
        .collect();
    Corpus::open(&paths).unwrap()
}

fn queries(tiny: &TinyRun, split: &str) -> QuerySet {
    let file = &tiny.manifest.queries[split].file;
    QuerySet::open(&tiny.folder.path().join("prepared").join(file)).unwrap()
}

/// `[rows][D]`
fn vectors(tiny: &TinyRun, objects: &[quarry_artifacts::ObjectRef]) -> Vec<Vec<f64>> {
    let mut all = Vec::new();
    for object in objects {
        let part = Embeddings::open(&tiny.local(object)).unwrap();
        assert_eq!(part.first_row() as usize, all.len());
        let wide = |row: &[half::f16]| row.iter().map(|x| x.to_f64()).collect();
        all.extend(part.rows().chunks(part.dim()).map(wide));
    }
    all
}

/// All passages for one query vector, best first.
fn ranking(query: &[f64], passages: &[Vec<f64>]) -> Vec<(u32, f64)> {
    let dot = |p: &Vec<f64>| p.iter().zip(query).map(|(a, b)| a * b).sum::<f64>();
    let mut all: Vec<(u32, f64)> = passages
        .iter()
        .enumerate()
        .map(|(row, p)| (row as u32, dot(p)))
        .collect();
    all.sort_by(|a, b| (b.1 as f32).total_cmp(&(a.1 as f32)).then(a.0.cmp(&b.0)));
    all
}

fn merge(
    tiny: &mut TinyRun,
    block: &Block,
    partitions: &[&[quarry_artifacts::ObjectRef]],
) -> TaskOutput {
    let candidates = tiny.search(block, partitions);
    let evaluate = block.split == "dev";
    tiny.perform(Work::MergeBlock {
        block: block.clone(),
        candidates,
        evaluate,
    })
    .unwrap()
}

fn negatives(tiny: &TinyRun, output: &TaskOutput) -> Vec<CandidateList> {
    let object = output.of(Role::Negatives).next().unwrap();
    let block = NegativesBlock::open(&tiny.local(object)).unwrap();
    (0..block.len()).map(|i| block.list(i)).collect()
}

#[test]
fn embeddings_are_those_of_each_text_alone_and_repeat_bitwise() {
    let mut tiny = TinyRun::new(|_| ());
    let shards = tiny.encode_shards();
    let found = vectors(&tiny, &shards);
    assert_eq!(found.len(), PASSAGES);
    let dir = tiny.folder.path().join("model");
    let model = DualEncoder::load(&dir, &LoadOptions::default()).unwrap();
    let specials = TextTokenizer::from_dir(&dir).unwrap().specials();
    let corpus = corpus(&tiny);
    for (row, vector) in found.iter().enumerate() {
        let batch = PackedBatch::new([corpus.tokens(row as u32)], specials, model.max_length());
        let alone = model.passage().embed(&batch, None).unwrap();
        let alone = Vec::<f32>::try_from(alone.view(-1)).unwrap();
        for (a, b) in vector.iter().zip(&alone) {
            assert!((a - f64::from(*b)).abs() < 2e-3, "row {row}: {a} and {b}");
        }
    }
    // Another worker with an empty cache publishes the very same objects.
    let cache = tiny.folder.path().join("other-cache");
    tiny.shop = support::workshop(&tiny.runtime, &tiny.store, &tiny.run, &cache);
    assert_eq!(tiny.encode_shards(), shards);
}

/// The positives of every query that asks what query `q` asks, by row.
fn known_positives(queries: &QuerySet, q: usize) -> Vec<u32> {
    let twins = (0..queries.len()).filter(|other| queries.text(*other) == queries.text(q));
    let rows: BTreeSet<u32> = twins.flat_map(|twin| queries.positives(twin)).collect();
    rows.into_iter().collect()
}

#[test]
fn negatives_and_counts_equal_brute_force() {
    let mut tiny = TinyRun::new(|_| ());
    let shards = tiny.encode_shards();
    let output = merge(&mut tiny, &train(), &[&shards]);
    let found = negatives(&tiny, &output);
    let block = Work::EncodeQueries { block: train() };
    let query_object = tiny.make(block, Role::QueryEmbeddings);
    let (queries_f, passages) = (vectors(&tiny, &[query_object]), vectors(&tiny, &shards));
    let (set, corpus) = (queries(&tiny, "train"), corpus(&tiny));
    let mining = tiny.recipe.mining.clone();
    let mut expected = std::collections::BTreeMap::<&str, u64>::new();
    let mut add = |name, by: usize| *expected.entry(name).or_default() += by as u64;
    for (q, list) in found.iter().enumerate() {
        let positives = known_positives(&set, q);
        let ranked = ranking(&queries_f[q], &passages);
        let score = |row: u32| ranked.iter().find(|(r, _)| *r == row).unwrap().1;
        let lowest = positives
            .iter()
            .map(|&p| score(p))
            .fold(f64::INFINITY, f64::min);
        let ceiling = lowest - f64::from(1.0 - mining.max_positive_ratio) * lowest.abs();
        let looked_at = &ranked[..mining.depth + positives.len()];
        let mut kept = Vec::new();
        for (row, score) in looked_at {
            let repeats = positives
                .iter()
                .any(|p| corpus.text(*p) == corpus.text(*row));
            match () {
                () if positives.contains(row) => add("positives_masked", 1),
                () if repeats => add("text_duplicates", 1),
                () if *score >= ceiling => add("above_positive", 1),
                () => kept.push(*row),
            }
        }
        kept.truncate(mining.keep);
        add("candidates", looked_at.len());
        add("kept", kept.len());
        add(
            "short_queries",
            usize::from(kept.len() < tiny.recipe.train.negatives),
        );
        add("empty_queries", usize::from(kept.is_empty()));
        assert_eq!(
            (list.query as usize, &list.rows, &list.positives),
            (q, &kept, &positives)
        );
        for (row, s) in list
            .rows
            .iter()
            .zip(&list.scores)
            .chain(positives.iter().zip(&list.positive_scores))
        {
            assert!((score(*row) - f64::from(*s)).abs() < 1e-4);
        }
    }
    for (name, count) in &output.counts {
        assert_eq!(
            *count,
            expected.get(name.as_str()).copied().unwrap_or(0),
            "{name}"
        );
    }
    assert!(
        ["positives_masked", "above_positive", "kept"]
            .iter()
            .all(|name| expected[name] > 0),
        "{expected:?}"
    );
}

#[test]
fn a_positive_of_an_equal_question_is_no_negative() {
    // Without the positive-aware filter, which would hide it too.
    let mut tiny = TinyRun::new(|r| {
        r.mining.max_positive_ratio = 0.0;
        r.mining.depth = PASSAGES;
        r.mining.keep = PASSAGES;
    });
    let shards = tiny.encode_shards();
    let output = merge(&mut tiny, &train(), &[&shards]);
    let found = negatives(&tiny, &output);
    // Queries 0 and 10 ask the same; the positive of the one repeats that of the other.
    assert_eq!(found[0].positives, [0, DUPLICATE]);
    assert_eq!(found[10].positives, [0, DUPLICATE]);
    assert!(!found[0].rows.contains(&DUPLICATE), "{:?}", found[0].rows);
    assert!(
        found[3].rows.contains(&DUPLICATE),
        "it is a negative of other queries"
    );
    // Twelve queries with a positive, one with another, two that share theirs.
    assert_eq!(output.counts["positives_masked"], 15);
    assert_eq!(output.counts["text_duplicates"], 0);
    assert_eq!(output.counts["kept"], (12 * PASSAGES - 15) as u64);
}

#[test]
fn two_partitions_merged_equal_one() {
    let mut tiny = TinyRun::new(|_| ());
    let shards = tiny.encode_shards();
    let whole = merge(&mut tiny, &train(), &[&shards]);
    let parts = merge(&mut tiny, &train(), &[&shards[..1], &shards[1..]]);
    assert_eq!(whole.counts, parts.counts);
    for (a, b) in negatives(&tiny, &whole)
        .iter()
        .zip(&negatives(&tiny, &parts))
    {
        assert_eq!((&a.rows, &a.positives), (&b.rows, &b.positives));
        assert!(
            a.scores
                .iter()
                .zip(&b.scores)
                .all(|(x, y)| (x - y).abs() < 1e-5)
        );
    }
    let (whole, parts) = (
        merge(&mut tiny, &dev(), &[&shards]),
        merge(&mut tiny, &dev(), &[&shards[..2], &shards[2..]]),
    );
    assert_eq!(whole.metrics, parts.metrics);
}

#[test]
fn a_flat_faiss_index_finds_what_exact_search_finds() {
    let mut exact = TinyRun::new(|_| ());
    let mut flat = TinyRun::new(|r| r.index.kind = "Flat".to_owned());
    let (a, b) = (exact.encode_shards(), flat.encode_shards());
    let (a, b) = (
        merge(&mut exact, &train(), &[&a[..2], &a[2..]]),
        merge(&mut flat, &train(), &[&b[..2], &b[2..]]),
    );
    let rows = |tiny: &TinyRun, output| {
        negatives(tiny, output)
            .into_iter()
            .map(|l| l.rows)
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(&exact, &a), rows(&flat, &b));
    assert_eq!(a.counts, b.counts);
}

#[test]
fn the_dev_block_is_scored_as_by_hand() {
    let mut tiny = TinyRun::new(|_| ());
    let shards = tiny.encode_shards();
    let output = merge(&mut tiny, &dev(), &[&shards]);
    let query_object = tiny.make(Work::EncodeQueries { block: dev() }, Role::QueryEmbeddings);
    let (queries_f, passages) = (vectors(&tiny, &[query_object]), vectors(&tiny, &shards));
    let set = queries(&tiny, "dev");
    let mut reciprocal = 0.0;
    for (q, vector) in queries_f.iter().enumerate() {
        let positive = set.positives(q).next().unwrap();
        let rank = ranking(vector, &passages)
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
    let names: Vec<&str> = output.metrics.keys().map(String::as_str).collect();
    assert_eq!(names, ["map", "mrr@10", "ndcg@10", "recall@100"]);
    let run = output.of(Role::Run).next().unwrap();
    let lines = std::fs::read_to_string(tiny.local(run)).unwrap();
    assert_eq!(lines.lines().count(), 6 * tiny.recipe.mining.depth);
    assert!(lines.starts_with("dev00 Q0 d"), "{lines}");
    let metrics = std::fs::read(tiny.local(output.of(Role::Metrics).next().unwrap())).unwrap();
    let metrics: serde_json::Value = serde_json::from_slice(&metrics).unwrap();
    assert_eq!(
        metrics["means"]["mrr@10"].as_f64(),
        output.metrics.get("mrr@10").copied()
    );
    assert_eq!(metrics["checkpoint"], tiny.checkpoint.digest.as_str());
}

fn refusal(outcome: Result<TaskOutput, TaskError>) -> String {
    let sentence = outcome.unwrap_err().to_string();
    assert!(!sentence.contains('\n'), "{sentence}");
    sentence
}

#[test]
fn a_damaged_shard_is_refused_by_name() {
    let mut tiny = TinyRun::new(|_| ());
    let shard = &tiny.manifest.shards[1].file;
    let path = tiny.local(tiny.run.corpus.file(shard).unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    tiny.perform(Work::EncodeShard { shard: 0 }).unwrap();
    let sentence = refusal(tiny.perform(Work::EncodeShard { shard: 1 }));
    assert!(
        sentence.contains("shard-00001") && sentence.contains("sha256"),
        "{sentence}"
    );
}

#[test]
fn embeddings_of_another_checkpoint_are_refused() {
    let mut tiny = TinyRun::new(|_| ());
    let shards = tiny.encode_shards();
    tiny.checkpoint = tiny.publish(100, &tiny.model(8));
    let query_embeddings = vec![tiny.make(
        Work::EncodeQueries { block: train() },
        Role::QueryEmbeddings,
    )];
    let work = Work::SearchBlock {
        block: train(),
        partition: 0,
        query_embeddings,
        embeddings: shards,
        index: None,
    };
    let sentence = refusal(tiny.perform(work));
    assert!(sentence.contains("stem from checkpoint"), "{sentence}");
}

#[test]
fn a_missing_partition_or_shard_is_noticed() {
    let mut tiny = TinyRun::new(|_| ());
    let shards = tiny.encode_shards();
    let mut candidates = tiny.search(&train(), &[&shards[..1], &shards[1..]]);
    candidates.pop();
    let sentence = refusal(tiny.perform(Work::MergeBlock {
        block: train(),
        candidates,
        evaluate: false,
    }));
    assert!(sentence.contains("a partition is missing"), "{sentence}");

    let query_embeddings = vec![tiny.make(
        Work::EncodeQueries { block: train() },
        Role::QueryEmbeddings,
    )];
    let embeddings = vec![shards[0].clone(), shards[2].clone()];
    let work = Work::SearchBlock {
        block: train(),
        partition: 0,
        query_embeddings,
        embeddings,
        index: None,
    };
    let sentence = refusal(tiny.perform(work));
    assert!(
        sentence.contains("row 40 where row 20 is due"),
        "{sentence}"
    );
}

#[test]
fn a_vector_that_is_not_finite_is_refused_with_its_passage() {
    let mut tiny = TinyRun::new(|_| ());
    let dir = tiny.model(9);
    let path = dir.join("model.safetensors");
    let mut weights = tch::Tensor::read_safetensors(&path).unwrap();
    // Only one word is broken: passages without it must not be named.
    let corpus = corpus(&tiny);
    let word = corpus.tokens(7)[0];
    let table = weights
        .iter_mut()
        .find(|(name, _)| name == "embeddings.word_embeddings.weight")
        .unwrap();
    let _ = table.1.get(i64::from(word)).fill_(f64::NAN);
    tch::Tensor::write_safetensors(&weights, &path).unwrap();
    tiny.checkpoint = tiny.publish(5, &dir);
    let sentence = refusal(tiny.perform(Work::EncodeShard { shard: 0 }));
    assert!(sentence.contains("is not finite"), "{sentence}");
    let named: u32 = sentence
        .split("\"d")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(corpus.tokens(named).contains(&word), "{sentence}");
}

#[test]
fn a_model_with_another_tokenizer_is_refused() {
    let mut tiny = TinyRun::new(|_| ());
    let dir = tiny.model(10);
    let path = dir.join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text} ")).unwrap();
    tiny.checkpoint = tiny.publish(6, &dir);
    let sentence = refusal(tiny.perform(Work::EncodeShard { shard: 0 }));
    assert!(sentence.contains("tokenizer"), "{sentence}");
}

#[test]
fn blocks_and_shards_beyond_the_corpus_are_refused() {
    let mut tiny = TinyRun::new(|_| ());
    let sentence = refusal(tiny.perform(Work::EncodeShard { shard: 3 }));
    assert!(sentence.contains("3 shards"), "{sentence}");
    let block = Block {
        queries: 13,
        ..train()
    };
    let sentence = refusal(tiny.perform(Work::EncodeQueries { block }));
    assert!(sentence.contains("train[0..13]"), "{sentence}");
    let block = Block {
        split: "test".to_owned(),
        ..train()
    };
    let sentence = refusal(tiny.perform(Work::EncodeQueries { block }));
    assert!(sentence.contains("dev, train"), "{sentence}");
}

#[test]
fn a_cancelled_task_ends_as_cancelled() {
    let mut tiny = TinyRun::new(|_| ());
    let progress = Progress::default();
    progress.cancel();
    let task = tiny.task(Work::EncodeShard { shard: 0 });
    assert!(matches!(
        tiny.shop.perform(&task, &progress),
        Err(TaskError::Cancelled)
    ));
}
