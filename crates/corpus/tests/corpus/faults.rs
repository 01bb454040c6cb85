//! Bad input: refused with file, line and reason, or dropped and counted.

use std::fmt::Write as _;

use quarry_corpus::{Format, Policy, PrepareOptions, Strictness};
use tempfile::TempDir;

use crate::{Prepared, collection, ids, options, refusal};

pub(crate) const CORPUS: &str =
    "{\"_id\":\"a\",\"text\":\"alpha\"}\n{\"_id\":\"b\",\"text\":\"beta\"}\n";
pub(crate) const QUERIES: &str =
    "{\"_id\":\"q\",\"text\":\"query\"}\n{\"_id\":\"r\",\"text\":\"other\"}\n";
pub(crate) const QRELS: &str = "query-id\tcorpus-id\tscore\nq\ta\t1\nr\tb\t1\n";

pub(crate) fn beir(corpus: &[u8], queries: &[u8], qrels: &[u8]) -> TempDir {
    collection(&[
        ("corpus.jsonl", corpus),
        ("queries.jsonl", queries),
        ("qrels/dev.tsv", qrels),
    ])
}

pub(crate) fn lenient(format: Format, splits: &[&str]) -> PrepareOptions {
    PrepareOptions {
        strictness: Strictness {
            empty_text: Policy::Drop,
            unknown_id: Policy::Drop,
            no_positive: Policy::Drop,
            malformed: Policy::Drop,
            duplicate_id: Policy::Drop,
        },
        ..options(format, splits)
    }
}

/// The refusal names `line` of `file` and says `reason`; the drop counts `count` under `key`.
fn both(dir: &TempDir, file: &str, line: u64, reason: &str, key: &str, count: u64) -> Prepared {
    let message = refusal(dir.path(), &options(Format::Beir, &["dev"]));
    let place = format!("line {line} of {}", dir.path().join(file).display());
    assert!(message.contains(&place), "{message}\nlacks {place}");
    assert!(message.contains(reason), "{message}\nlacks {reason}");
    let prepared = Prepared::new(dir.path(), &lenient(Format::Beir, &["dev"]));
    assert_eq!(
        prepared.manifest.dropped.get(key),
        Some(&count),
        "{:?}",
        prepared.manifest.dropped
    );
    prepared
}

#[test]
fn malformed_lines() {
    let corpus = format!("{CORPUS}\n{{\"_id\":\"c\"}}\n");
    let dir = beir(corpus.as_bytes(), QUERIES.as_bytes(), QRELS.as_bytes());
    let prepared = both(
        &dir,
        "corpus.jsonl",
        4,
        "missing field `text`",
        "malformed_lines",
        1,
    );
    assert_eq!(ids(&prepared.corpus()), ["a", "b"]);

    let corpus = [CORPUS.as_bytes(), b"{\"_id\":\"c\",\"text\":\"\xff\"}\n"].concat();
    let dir = beir(&corpus, QUERIES.as_bytes(), QRELS.as_bytes());
    both(
        &dir,
        "corpus.jsonl",
        3,
        "not UTF-8 from byte 20 on",
        "malformed_lines",
        1,
    );

    let dir = beir(
        CORPUS.as_bytes(),
        format!("{QUERIES}[1]\n").as_bytes(),
        QRELS.as_bytes(),
    );
    both(&dir, "queries.jsonl", 3, "malformed", "malformed_lines", 1);

    let dir = beir(
        CORPUS.as_bytes(),
        QUERIES.as_bytes(),
        format!("{QRELS}q\tb\n").as_bytes(),
    );
    both(
        &dir,
        "qrels/dev.tsv",
        4,
        "it has 2 tab-separated columns and not 3",
        "malformed_lines",
        1,
    );

    let dir = beir(
        CORPUS.as_bytes(),
        QUERIES.as_bytes(),
        format!("{QRELS}q\tb\thigh\n").as_bytes(),
    );
    both(
        &dir,
        "qrels/dev.tsv",
        4,
        "its grade \"high\" is no integer",
        "malformed_lines",
        1,
    );

    let dir = beir(
        CORPUS.as_bytes(),
        QUERIES.as_bytes(),
        b"q\ta\t1.0\nr\tb\t1\n",
    );
    both(
        &dir,
        "qrels/dev.tsv",
        1,
        "its grade \"1.0\" is no integer",
        "malformed_lines",
        1,
    );

    let dir = beir(
        CORPUS.as_bytes(),
        QUERIES.as_bytes(),
        format!("{QRELS}q\ta\t2\n").as_bytes(),
    );
    both(
        &dir,
        "qrels/dev.tsv",
        4,
        "that line 2 graded 1",
        "malformed_lines",
        1,
    );

    let corpus = format!("{CORPUS}{{\"_id\":\"\",\"text\":\"x\"}}\n");
    let dir = beir(corpus.as_bytes(), QUERIES.as_bytes(), QRELS.as_bytes());
    both(
        &dir,
        "corpus.jsonl",
        3,
        "its id is empty",
        "malformed_lines",
        1,
    );
}

#[test]
fn duplicate_ids_name_both_lines() {
    let corpus = format!("{CORPUS}{{\"_id\":\"a\",\"text\":\"again\"}}\n");
    let dir = beir(corpus.as_bytes(), QUERIES.as_bytes(), QRELS.as_bytes());
    let prepared = both(
        &dir,
        "corpus.jsonl",
        3,
        "repeats the passage id \"a\" of line 1",
        "duplicate_passages",
        1,
    );
    assert_eq!(prepared.corpus().text(0), "alpha");
    assert_eq!(prepared.manifest.passages, 2);

    let queries = format!(
        "{{\"_id\":\"x\",\"text\":\"x\"}}\n{QUERIES}{{\"_id\":\"q\",\"text\":\"again\"}}\n"
    );
    let dir = beir(CORPUS.as_bytes(), queries.as_bytes(), QRELS.as_bytes());
    let prepared = both(
        &dir,
        "queries.jsonl",
        4,
        "repeats the query id \"q\" of line 2",
        "duplicate_queries",
        1,
    );
    assert_eq!(prepared.queries("dev").text(0), "query");
}

#[test]
fn duplicates_among_many_ids() {
    let mut corpus = String::new();
    for number in 0..150_000 {
        let id = if number == 149_000 { 777 } else { number };
        writeln!(corpus, "{id}\ttext {number}").unwrap();
    }
    let dir = collection(&[
        ("collection.tsv", corpus.as_bytes()),
        ("queries.dev.tsv", b"q\tquery\n"),
        ("qrels.dev.tsv", b"q\t0\t149999\t1\n"),
    ]);
    let mut options = options(Format::MsMarco, &["dev"]);
    options.shard_passages = 60_000;
    let message = refusal(dir.path(), &options);
    assert!(message.starts_with("line 149001 of "), "{message}");
    assert!(
        message.contains("repeats the passage id \"777\" of line 778 of "),
        "{message}"
    );
    options.strictness.duplicate_id = Policy::Drop;
    let prepared = Prepared::new(dir.path(), &options);
    let sizes: Vec<u32> = prepared
        .manifest
        .shards
        .iter()
        .map(|shard| shard.passages)
        .collect();
    assert_eq!(sizes, [60_000, 60_000, 29_999]);
    assert_eq!(
        prepared.queries("dev").positives(0).collect::<Vec<_>>(),
        [149_998]
    );
    assert_eq!(prepared.corpus().id(149_998), "149999");
}

#[test]
fn unknown_ids() {
    let dir = beir(
        CORPUS.as_bytes(),
        QUERIES.as_bytes(),
        format!("{QRELS}q\tzzz\t1\n").as_bytes(),
    );
    let prepared = both(
        &dir,
        "qrels/dev.tsv",
        4,
        "names the unknown passage \"zzz\"",
        "unknown_passages",
        1,
    );
    assert_eq!(prepared.queries("dev").judged(0), (&[0][..], &[1][..]));

    let dir = beir(
        CORPUS.as_bytes(),
        QUERIES.as_bytes(),
        format!("{QRELS}zzz\ta\t1\nzzz\tb\t1\n").as_bytes(),
    );
    let prepared = both(
        &dir,
        "qrels/dev.tsv",
        4,
        "names the unknown query \"zzz\"",
        "unknown_queries",
        2,
    );
    assert_eq!(prepared.queries("dev").len(), 2);
}

#[test]
fn empty_texts() {
    let corpus = format!("{CORPUS}{{\"_id\":\"c\",\"title\":\" \",\"text\":\" \\n\\t\"}}\n");
    let dir = beir(corpus.as_bytes(), QUERIES.as_bytes(), QRELS.as_bytes());
    let prepared = both(
        &dir,
        "corpus.jsonl",
        3,
        "has no text for the passage \"c\"",
        "empty_passages",
        1,
    );
    assert_eq!(prepared.manifest.passages, 2);

    // A judgement that names a dropped passage is a fault of its own.
    let dir = beir(
        corpus.as_bytes(),
        QUERIES.as_bytes(),
        format!("{QRELS}q\tc\t1\n").as_bytes(),
    );
    let mut options = options(Format::Beir, &["dev"]);
    options.strictness.empty_text = Policy::Drop;
    assert!(refusal(dir.path(), &options).contains("names the unknown passage \"c\""));

    let queries = QUERIES.replace("other", "  ");
    let dir = beir(CORPUS.as_bytes(), queries.as_bytes(), QRELS.as_bytes());
    let prepared = both(
        &dir,
        "queries.jsonl",
        2,
        "has no text for the query \"r\"",
        "empty_queries",
        1,
    );
    assert_eq!(prepared.queries("dev").len(), 1);
    assert_eq!(prepared.manifest.dropped.len(), 1);
}

#[test]
fn queries_without_positives() {
    let dir = beir(
        CORPUS.as_bytes(),
        QUERIES.as_bytes(),
        QRELS.replace("r\tb\t1", "r\tb\t0").as_bytes(),
    );
    let prepared = both(
        &dir,
        "qrels/dev.tsv",
        3,
        "the query \"r\" at line 3 of",
        "queries_without_positive",
        1,
    );
    assert_eq!(prepared.queries("dev").len(), 1);

    // In Tevatron and DPR every record is a query of its split.
    let train = r#"{"query_id":"1","query":"a","positive_passages":[{"docid":"x","text":"ex"}]}
{"query_id":"2","query":"b","positive_passages":[],"negative_passages":[{"docid":"y","text":"why"}]}
"#;
    let dir = collection(&[("train.jsonl", train.as_bytes())]);
    let message = refusal(dir.path(), &options(Format::Tevatron, &["train"]));
    assert!(
        message.starts_with("the query \"2\" at line 2 of "),
        "{message}"
    );
    let prepared = Prepared::new(dir.path(), &lenient(Format::Tevatron, &["train"]));
    assert_eq!(prepared.manifest.dropped["queries_without_positive"], 1);
    assert_eq!(prepared.manifest.passages, 2);
}

#[test]
fn a_malformed_record_counts_once_though_it_is_read_often() {
    let train = "[\n{\"question\":\"a\",\"positive_ctxs\":[{\"passage_id\":\"1\",\"text\":\"x\"}]},\n{\"question\":\n3},\n{\"question\":\"b\",\"positive_ctxs\":[{\"passage_id\":\"1\",\"text\":\"x\"}]}]";
    let dir = collection(&[("train.json", train.as_bytes())]);
    let message = refusal(dir.path(), &options(Format::Dpr, &["train"]));
    assert!(
        message.contains("line 4 of ") && message.contains("expected a string"),
        "{message}"
    );
    let prepared = Prepared::new(dir.path(), &lenient(Format::Dpr, &["train"]));
    assert_eq!(prepared.manifest.dropped["malformed_lines"], 1);
    let queries = prepared.queries("train");
    assert_eq!((queries.len(), queries.id(1)), (2, "train-2"));
}

#[test]
fn options_are_checked() {
    let dir = beir(CORPUS.as_bytes(), QUERIES.as_bytes(), QRELS.as_bytes());
    let mut wrong = options(Format::Beir, &["dev"]);
    wrong.shard_passages = 0;
    assert!(refusal(dir.path(), &wrong).contains("the option shard_passages is wrong"));
    assert!(
        refusal(dir.path(), &options(Format::Beir, &["../dev"]))
            .contains("the option splits is wrong")
    );
    assert!(
        refusal(dir.path(), &options(Format::Beir, &["dev", "dev"])).contains("is named twice")
    );
}
