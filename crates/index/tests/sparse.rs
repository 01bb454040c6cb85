//! BM25: hand values, bm25s's scores, real questions, hostile queries, files.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use quarry_eval::{Evaluation, Metric, Run, evaluate, read_qrels};
use quarry_index::{IndexError, Language, SparseIndex};
use serde::Deserialize;

fn index(folder: &tempfile::TempDir, passages: &[&str], language: Language) -> SparseIndex {
    let passages = (5..).zip(passages.iter().copied());
    SparseIndex::build(folder.path().join("bm25"), passages, language, &mut |_| {}).unwrap()
}

#[test]
fn score_by_hand() {
    // N 3, n 2, tf 2, |D| 4, mean length 3: idf 0.4700036, tf part 0.5714286, times k1 + 1.
    let folder = tempfile::tempdir().unwrap();
    let index = index(&folder, &["x x a b", "x c d", "e f"], Language::Plain);
    let hits = index.search("x", 10).unwrap();
    assert_eq!(hits.iter().map(|hit| hit.row).collect::<Vec<_>>(), [5, 6]);
    assert!(
        (hits[0].score - 0.590_861_7).abs() < 1e-6,
        "{}",
        hits[0].score
    );
    let twice = index.search("x X", 10).unwrap();
    assert!((twice[0].score - 2.0 * 0.590_861_7).abs() < 1e-6);
}

#[derive(Deserialize)]
struct Reference {
    documents: Vec<String>,
    queries: Vec<String>,
    scores: Vec<Vec<f32>>,
}

#[test]
fn scores_agree_with_bm25s() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bm25.json"))
            .unwrap();
    let reference: Reference = serde_json::from_str(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let passages: Vec<&str> = reference.documents.iter().map(String::as_str).collect();
    let index = index(&folder, &passages, Language::Plain);
    for (query, scores) in reference.queries.iter().zip(&reference.scores) {
        let found: BTreeMap<u32, f32> = index
            .search(query, 20)
            .unwrap()
            .iter()
            .map(|hit| (hit.row - 5, hit.score))
            .collect();
        for (row, expected) in (0..).zip(scores) {
            let score = found.get(&row).copied().unwrap_or(0.0);
            // tantivy's scores are Lucene's times k1 + 1.
            assert!(
                (score - 2.2 * expected).abs() < 1e-4,
                "{query:?} row {row}: {score} is not 2.2 × {expected}"
            );
        }
    }
}

#[test]
fn ties_come_in_the_order_of_rows() {
    let folder = tempfile::tempdir().unwrap();
    let passages: Vec<&str> = (0..300)
        .map(|i| {
            if i % 3 == 0 {
                "other words"
            } else {
                "the same text here"
            }
        })
        .collect();
    let index = index(&folder, &passages, Language::English);
    let rows: Vec<u32> = index
        .search("same text", 50)
        .unwrap()
        .iter()
        .map(|hit| hit.row)
        .collect();
    let expected: Vec<u32> = (0..300)
        .filter(|i| i % 3 != 0)
        .map(|i| i + 5)
        .take(50)
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn no_query_is_special() {
    let folder = tempfile::tempdir().unwrap();
    let index = index(
        &folder,
        &["norman dukes", "field:value", "a AND b OR c"],
        Language::English,
    );
    for nothing in ["", "  ", "the of and", "?!*", "zebra", "\u{0}"] {
        assert!(index.search(nothing, 10).unwrap().is_empty(), "{nothing:?}");
    }
    for query in [
        "+norman -duke",
        "\"norman",
        "norman^9 (",
        "text:norman AND NOT duke",
        "norman~2 [a TO z] \\",
    ] {
        assert_eq!(index.search(query, 10).unwrap()[0].row, 5, "{query:?}");
    }
    assert!(index.search("norman", 0).unwrap().is_empty());
    assert_eq!(index.search("norman value", 1000).unwrap().len(), 2);
}

#[test]
fn an_index_opens_again_and_damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bm25");
    let mut told = Vec::new();
    let passages = (0..2500u32).map(|row| (row * 2, format!("passage {row} about 梵語")));
    let built = SparseIndex::build(&dir, passages, Language::Chinese, &mut |count| {
        told.push(count)
    })
    .unwrap();
    assert_eq!(told, [1000, 2000, 2500]);
    let opened = SparseIndex::open(&dir).unwrap();
    assert_eq!((opened.len(), opened.language()), (2500, Language::Chinese));
    assert_eq!(
        opened.search("梵語 77", 9).unwrap(),
        built.search("梵語 77", 9).unwrap()
    );
    assert_eq!(opened.search("77", 1).unwrap()[0].row, 154);
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "a temporary folder was left"
    );

    let again = SparseIndex::build(&dir, [(0, "x")], Language::Plain, &mut |_| {});
    assert!(matches!(again, Err(IndexError::Exists { .. })));
    let segment = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let postings = segment
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "term"))
        .unwrap();
    std::fs::remove_file(postings).unwrap();
    assert!(
        SparseIndex::open(&dir)
            .and_then(|index| index.search("passage", 1))
            .is_err()
    );
    std::fs::remove_file(dir.join("quarry.json")).unwrap();
    assert!(matches!(
        SparseIndex::open(&dir),
        Err(IndexError::Io { .. })
    ));
}

#[test]
fn bad_passages_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("bm25");
    let none = SparseIndex::build(&dir, [] as [(u32, &str); 0], Language::Plain, &mut |_| {});
    assert!(matches!(none, Err(IndexError::Empty)));
    let unordered = SparseIndex::build(&dir, [(3, "x"), (3, "y")], Language::Plain, &mut |_| {});
    assert!(matches!(
        unordered,
        Err(IndexError::Parts { first_row: 3, .. })
    ));
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "a half-written index was left"
    );
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

fn lines(path: &Path) -> Vec<Line> {
    let reader = BufReader::new(GzDecoder::new(std::fs::File::open(path).unwrap()));
    reader
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect()
}

/// BM25 on the dev questions of a BEIR folder.
fn bm25(data: &Path) -> (Language, Evaluation) {
    let corpus = lines(&data.join("corpus.jsonl.gz"));
    let texts: Vec<String> = corpus
        .iter()
        .map(|line| format!("{} {}", line.title, line.text))
        .collect();
    let language = Language::detect(texts.iter().take(1000).map(String::as_str));
    let folder = tempfile::tempdir().unwrap();
    let index = SparseIndex::build(
        folder.path().join("bm25"),
        (0..).zip(&texts),
        language,
        &mut |_| {},
    )
    .unwrap();
    let qrels = read_qrels(data.join("qrels/dev.tsv")).unwrap();
    let queries: Vec<Line> = lines(&data.join("queries.jsonl.gz"))
        .into_iter()
        .filter(|query| qrels.get(&query.id).is_some())
        .collect();
    let texts: Vec<&str> = queries.iter().map(|query| query.text.as_str()).collect();
    let found = index.search_all(&texts, 100, 2).unwrap();
    assert_eq!(found[7], index.search(texts[7], 100).unwrap());
    let mut run = Run::default();
    for (query, hits) in queries.iter().zip(found) {
        run.insert_ranking(
            &query.id,
            hits.iter().map(|hit| corpus[hit.row as usize].id.as_str()),
        )
        .unwrap();
    }
    (language, evaluate(&qrels, &run, &Metric::DEFAULT))
}

fn near(data: &Path, language: Language, expected: [f64; 3]) {
    let (detected, evaluation) = bm25(data);
    println!("{}: {:?}", data.display(), evaluation.means);
    assert_eq!(detected, language);
    for (name, expected) in ["mrr@10", "ndcg@10", "recall@100"]
        .into_iter()
        .zip(expected)
    {
        let value = evaluation.means[name];
        assert!(
            (value - expected).abs() < 0.02,
            "{name} {value} is not {expected}"
        );
    }
}

/// Expected values: bm25s 0.3.16 with k1 = 1.2, b = 0.75 and pytrec_eval-terrier 0.5.11.
#[test]
fn squad_mini_as_bm25s() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../data/squad-mini");
    near(&data, Language::English, [0.8734, 0.8978, 1.0]);
}

/// The larger collections are not in the repository: `QUARRY_DATA=<folder> cargo test -p quarry-index -- --ignored`.
#[test]
#[ignore = "needs the collections squad, medquad and drcd in $QUARRY_DATA"]
fn larger_collections_as_bm25s() {
    let data = PathBuf::from(std::env::var("QUARRY_DATA").unwrap());
    near(
        &data.join("squad"),
        Language::English,
        [0.8533, 0.8803, 0.9930],
    );
    near(
        &data.join("drcd"),
        Language::Chinese,
        [0.9482, 0.9592, 0.9980],
    );
    near(
        &data.join("medquad"),
        Language::English,
        [0.5280, 0.6190, 0.9872],
    );
}
