//! Against pytrec_eval-terrier: `scripts/reference/eval_fixtures.py` and two recorded runs.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use flate2::read::GzDecoder;
use quarry_eval::{Metric, Qrels, Run, evaluate, read_qrels, read_run, write_run};
use serde::Deserialize;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

#[derive(Deserialize)]
struct Case {
    qrels: BTreeMap<String, i32>,
    run: BTreeMap<String, f64>,
    expected: BTreeMap<String, f64>,
}

#[test]
fn small_runs_with_ties() {
    let mut text = String::new();
    let file = std::fs::File::open(data("fuzz.json.gz")).unwrap();
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 200);
    for (number, case) in cases.iter().enumerate() {
        let (mut qrels, mut run) = (Qrels::default(), Run::default());
        case.qrels
            .iter()
            .for_each(|(document, grade)| qrels.insert("q", document, *grade).unwrap());
        case.run
            .iter()
            .for_each(|(document, score)| run.insert("q", document, *score as f32).unwrap());
        for (name, expected) in &case.expected {
            let metric: Metric = name.parse().unwrap();
            let value = evaluate(&qrels, &run, &[metric]).means[name];
            assert!(
                (value - expected).abs() < 1e-9,
                "case {number}, {name}: {value} is not {expected}"
            );
        }
    }
}

/// Columns of the recorded per-query tables and our names for them.
const COLUMNS: [(&str, &str); 8] = [
    ("recip_rank_10", "mrr@10"),
    ("ndcg_cut_10", "ndcg@10"),
    ("ndcg_cut_100", "ndcg@100"),
    ("recall_10", "recall@10"),
    ("recall_100", "recall@100"),
    ("map", "map"),
    ("P_10", "precision@10"),
    ("success_5", "success@5"),
];

fn recorded_run(system: &str, mrr: f64, ndcg: f64, recall: f64) {
    let qrels = read_qrels(data("squad-mini.dev.qrels.tsv")).unwrap();
    let run = read_run(data(&format!("squad-mini.dev.{system}.run.gz"))).unwrap();
    let metrics: Vec<Metric> = COLUMNS
        .iter()
        .map(|(_, name)| name.parse().unwrap())
        .collect();
    let evaluation = evaluate(&qrels, &run, &metrics);
    let table = std::fs::read_to_string(data(&format!("squad-mini.dev.{system}.tsv"))).unwrap();
    let mut lines = table
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let mut queries = 0;
    for line in lines {
        let values = &evaluation.per_query[line[0]];
        for (column, name) in COLUMNS {
            let at = header.iter().position(|title| *title == column).unwrap();
            let expected: f64 = line[at].parse().unwrap();
            assert!(
                (values[name] - expected).abs() < 1e-6,
                "{} {name}: {} is not {expected}",
                line[0],
                values[name]
            );
        }
        queries += 1;
    }
    assert_eq!(
        (queries, evaluation.queries, evaluation.missing),
        (250, 250, 0)
    );
    for (name, expected) in [("mrr@10", mrr), ("ndcg@10", ndcg), ("recall@100", recall)] {
        assert!(
            (evaluation.means[name] - expected).abs() < 5e-5,
            "{name} {}",
            evaluation.means[name]
        );
    }
}

#[test]
fn recorded_bm25_run() {
    recorded_run("bm25-en", 0.8679, 0.8928, 1.0);
}

#[test]
fn recorded_minilm_run() {
    recorded_run("minilm", 0.7634, 0.8037, 0.9920);
}

#[test]
fn a_written_run_reads_back_the_same() {
    let run = read_run(data("squad-mini.dev.minilm.run.gz")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for name in ["copy.run", "copy.run.gz"] {
        let path = folder.path().join(name);
        write_run(&path, &run, "minilm").unwrap();
        assert_eq!(read_run(&path).unwrap(), run);
        let bytes = std::fs::read(&path).unwrap();
        write_run(&path, &run, "minilm").unwrap();
        assert_eq!(
            std::fs::read(&path).unwrap(),
            bytes,
            "{name} is not reproducible"
        );
    }
}
