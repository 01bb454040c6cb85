//! Columns and masks of a micro-batch, by hand.
#![allow(clippy::unwrap_used)]

use quarry_artifacts::Digest;
use quarry_corpus::{Corpus, Format, PrepareOptions, QuerySet, Strictness, Tokenize, prepare};
use quarry_recipe::{Draw, Loss, Recipe};
use quarry_trainer::batches::{Batch, Batches, Judgements, Mined};
use quarry_trainer::dataset::Dataset;
use std::collections::BTreeSet;
use std::path::Path;

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

struct Words;

impl Tokenize for Words {
    fn content_ids(&self, texts: &[String], max_tokens: usize) -> Result<Vec<Vec<u32>>, String> {
        let ids = |text: &String| {
            let words = text.split_whitespace().take(max_tokens);
            words.map(|word| word.len() as u32).collect()
        };
        Ok(texts.iter().map(ids).collect())
    }

    fn digest(&self) -> String {
        "word lengths".to_owned()
    }
}

/// Passages 0 to 9; query `q` has the text `questions[q]` and the positive `q`.
fn dataset(dir: &Path, questions: &[&str]) -> Dataset {
    let passages = (0..10).map(|p| format!("{{\"_id\":\"p{p}\",\"text\":\"passage {p}\"}}\n"));
    let (mut queries, mut qrels) = (String::new(), String::new());
    for (q, question) in questions.iter().enumerate() {
        queries += &format!("{{\"_id\":\"q{q}\",\"text\":\"{question}\"}}\n");
        qrels += &format!("q{q}\tp{q}\t1\n");
    }
    std::fs::create_dir_all(dir.join("qrels")).unwrap();
    std::fs::write(dir.join("corpus.jsonl"), passages.collect::<String>()).unwrap();
    std::fs::write(dir.join("queries.jsonl"), queries).unwrap();
    std::fs::write(dir.join("qrels/train.tsv"), qrels).unwrap();
    let options = PrepareOptions {
        format: Format::Beir,
        shard_passages: 10,
        passage_prefix: String::new(),
        query_prefix: String::new(),
        passage_tokens: 8,
        query_tokens: 8,
        splits: vec!["train".to_owned()],
        strictness: Strictness::default(),
    };
    let manifest = prepare(dir, dir, &Words, &options, &mut |_| {}).unwrap();
    let shard = dir.join(&manifest.shards[0].file);
    let queries = QuerySet::open(&dir.join(&manifest.queries["train"].file)).unwrap();
    let digest: Digest = manifest.digest().parse().unwrap();
    Dataset::new(Corpus::open(&[shard]).unwrap(), queries, digest, Vec::new()).unwrap()
}

/// The batch of step 0 over three queries, where query 0 drew the positive of query 2.
fn drawn_from(dataset: &dyn Judgements, change: impl Fn(&mut Recipe)) -> Batch {
    let mined = Three(vec![vec![2, 5], vec![5, 6], vec![6, 7]]);
    let mut batches = Batches::new(&recipe(change), 3).unwrap();
    batches.batch(0, dataset, &mined).unwrap()
}

#[test]
fn equal_questions_are_no_negatives_of_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), &["who is it", "what is it", " who  is it"]);
    let batch = drawn_from(&dataset, |_| {});
    // Passage 2 stands there twice: drawn for query 0 and as the target of query 2,
    // where it is masked for query 0 and, in the draw's column, for query 2 too.
    assert_eq!(masked(&batch), BTreeSet::from([(0, 2), (2, 0), (2, 2)]));
    let columns = &batch.micros[0];
    assert_eq!(columns.false_negatives, 4);
    // Each is still trained on its own positive.
    for (query, target) in columns.queries.iter().zip(&columns.targets) {
        assert_eq!(
            columns.passages[columns.passage_of[*target as usize] as usize],
            *query
        );
    }
    for apart in [
        drawn_from(&dataset, |r| r.train.in_batch = false),
        drawn_from(&dataset, |r| r.train.loss = Loss::Pairwise),
    ] {
        assert_eq!(apart.micros[0].false_negatives, 1, "the draw of query 0");
    }
}

/// A data set as if no two questions could be equal.
struct Apart(Dataset);

impl Judgements for Apart {
    fn positives(&self, query: u32) -> Vec<u32> {
        self.0.positives(query)
    }

    fn text_hash(&self, row: u32) -> u64 {
        self.0.text_hash(row)
    }
}

#[test]
fn distinct_questions_give_the_batch_they_always_gave() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = Apart(dataset(dir.path(), &["who is it", "what is it", "where"]));
    let change = |r: &mut Recipe| r.mining.draw = Draw::Uniform;
    let expected = drawn_from(&dataset, change);
    assert_eq!(drawn_from(&dataset.0, change), expected);
    // Equal questions change what is masked and nothing else.
    let dir = tempfile::tempdir().unwrap();
    let equal = self::dataset(dir.path(), &["who is it", "what is it", "who is it"]);
    let mut batch = drawn_from(&equal, change);
    assert_ne!(batch, expected);
    batch.micros[0]
        .masked
        .clone_from(&expected.micros[0].masked);
    batch.micros[0].false_negatives = expected.micros[0].false_negatives;
    assert_eq!(batch, expected);
}
