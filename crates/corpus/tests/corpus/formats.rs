//! The same small collection in every format.

use quarry_corpus::{CorpusManifest, Format};

use crate::{Prepared, collection, ids, options};

const BEIR: [(&str, &[u8]); 3] = [
    (
        "corpus.jsonl.gz",
        b"{\"_id\": \"p1\", \"title\": \"Oxygen\", \"text\": \"is a gas\"}\n\n{\"_id\": 2, \"text\": \"no title\", \"metadata\": {}}\r\n{\"_id\": \"p3\", \"title\": null, \"text\": \"last line without end\"}",
    ),
    (
        "queries.jsonl",
        "\u{feff}{\"_id\": \"q1\", \"text\": \"what is it\"}\n{\"_id\": \"unjudged\", \"text\": \"nobody asks\"}\n{\"_id\": \"q2\", \"text\": \"which has no title\"}\n".as_bytes(),
    ),
    ("qrels/dev.tsv", b"query-id\tcorpus-id\tscore\nq2\t2\t2\nq1\tp1\t1\nq1\tp3\t0\nq1\tp1\t1\nq2\tp3\t1\n"),
];

#[test]
fn beir() {
    let dir = collection(&BEIR);
    assert_eq!(Format::detect(dir.path()).unwrap(), Format::Beir);
    assert_eq!(Format::Beir.splits(dir.path()).unwrap(), ["dev"]);
    let prepared = Prepared::new(dir.path(), &options(Format::Beir, &["dev"]));
    let corpus = prepared.corpus();
    assert_eq!(ids(&corpus), ["p1", "2", "p3"]);
    assert_eq!(corpus.text(0), "Oxygen is a gas");
    assert_eq!(corpus.text(1), "no title");
    assert_eq!(corpus.tokens(0), [6, 2, 1, 3]);
    assert_eq!(
        corpus.texts().map(|(row, _)| row).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(
        corpus.text_hash(2),
        quarry_corpus::text_hash("last line  without end ")
    );

    let queries = prepared.queries("dev");
    assert_eq!(
        (queries.len(), queries.id(0), queries.id(1)),
        (2, "q1", "q2")
    );
    assert_eq!(queries.text(1), "which has no title");
    assert_eq!(queries.tokens(0), [4, 2, 2]);
    assert_eq!(queries.judged(0), (&[0, 2][..], &[1, 0][..]));
    assert_eq!(queries.judged(1), (&[1, 2][..], &[2, 1][..]));
    assert_eq!(queries.positives(0).collect::<Vec<_>>(), [0]);
    assert_eq!(queries.positives(1).collect::<Vec<_>>(), [1, 2]);

    let manifest = &prepared.manifest;
    assert_eq!((manifest.passages, manifest.shards.len()), (3, 2));
    assert_eq!(
        (manifest.shards[1].first_row, manifest.shards[1].passages),
        (2, 1)
    );
    assert_eq!(
        (manifest.shards[0].tokens, manifest.queries["dev"].tokens),
        (6, 7)
    );
    assert_eq!(
        (
            manifest.queries["dev"].queries,
            manifest.queries["dev"].positives
        ),
        (2, 3)
    );
    assert!(manifest.dropped.is_empty());
}

#[test]
fn prefixes_come_first_and_cuts_are_counted() {
    let dir = collection(&BEIR);
    let mut options = options(Format::Beir, &["dev"]);
    options.passage_prefix = "passage: ".into();
    options.query_prefix = "q: ".into();
    options.passage_tokens = 4;
    options.query_tokens = 2;
    let prepared = Prepared::new(dir.path(), &options);
    let corpus = prepared.corpus();
    assert_eq!(corpus.tokens(0), [8, 6, 2, 1]);
    assert_eq!(corpus.tokens(1), [8, 2, 5]);
    assert_eq!(corpus.text(0), "Oxygen is a gas");
    assert_eq!(prepared.manifest.truncated_passages, 2);
    // "q: what is it" and "q: which has no title".
    assert_eq!(prepared.queries("dev").tokens(0), [2, 4]);
    assert_eq!(prepared.manifest.queries["dev"].truncated, 2);
}

#[test]
fn cut_queries_are_counted_by_split() {
    let dir = collection(&[
        ("corpus.jsonl", b"{\"_id\": \"p\", \"text\": \"a passage\"}\n"),
        (
            "queries.jsonl",
            b"{\"_id\": \"three\", \"text\": \"one two three\"}\n{\"_id\": \"four\", \"text\": \"one two three four\"}\n{\"_id\": \"five\", \"text\": \"one two three four five\"}\n",
        ),
        ("qrels/train.tsv", b"query-id\tcorpus-id\tscore\nfour\tp\t1\nfive\tp\t1\n"),
        ("qrels/dev.tsv", b"query-id\tcorpus-id\tscore\nthree\tp\t1\nfive\tp\t1\n"),
        ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nthree\tp\t1\n"),
    ]);
    let mut options = options(Format::Beir, &["train", "dev", "test"]);
    options.query_tokens = 3;
    let manifest = Prepared::new(dir.path(), &options).manifest;
    let cut = |split: &str| manifest.queries[split].truncated;
    assert_eq!((cut("train"), cut("dev"), cut("test")), (2, 1, 0));
    assert_eq!(manifest.truncated_passages, 0);
}

#[test]
fn a_manifest_from_before_the_count_of_cut_queries_is_read() {
    let dir = collection(&BEIR);
    let manifest = Prepared::new(dir.path(), &options(Format::Beir, &["dev"])).manifest;
    let mut old = serde_json::to_value(&manifest).unwrap();
    let entry = old["queries"]["dev"].as_object_mut().unwrap();
    assert_eq!(entry.remove("truncated"), Some(0.into()));
    assert_eq!(
        serde_json::from_value::<CorpusManifest>(old).unwrap(),
        manifest
    );
}

#[test]
fn msmarco() {
    let dir = collection(&[
        (
            "collection.tsv.gz",
            b"10\tfirst passage\n11\tsecond \"quoted passage\n",
        ),
        ("queries.train.tsv", b"7\ta query\n8\tanother\n"),
        ("queries.dev.small.tsv", b"9\tsmall query\n"),
        ("qrels.train.tsv", b"8\t0\t11\t1\n7\t0\t10\t1\n"),
        ("qrels.dev.small.tsv.gz", b"9\t0\t11\t1\n"),
    ]);
    assert_eq!(Format::detect(dir.path()).unwrap(), Format::MsMarco);
    assert_eq!(
        Format::MsMarco.splits(dir.path()).unwrap(),
        ["dev.small", "train"]
    );
    let prepared = Prepared::new(
        dir.path(),
        &options(Format::MsMarco, &["train", "dev.small"]),
    );
    let corpus = prepared.corpus();
    assert_eq!(ids(&corpus), ["10", "11"]);
    assert_eq!(corpus.text(1), "second \"quoted passage");
    let train = prepared.queries("train");
    assert_eq!((train.id(0), train.id(1)), ("7", "8"));
    assert_eq!(train.positives(1).collect::<Vec<_>>(), [1]);
    assert_eq!(
        prepared
            .queries("dev.small")
            .positives(0)
            .collect::<Vec<_>>(),
        [1]
    );
}

const DPR_TRAIN: &[u8] = br#"[
  {"dataset": "nq", "question": "who [is] \"it\"}", "answers": ["x"],
   "positive_ctxs": [{"title": "T1", "text": "one }", "score": 1000, "passage_id": "5"}],
   "negative_ctxs": [{"title": "T2", "text": "two", "psg_id": 6}],
   "hard_negative_ctxs": [{"title": "", "text": "three \\", "passage_id": "7"}]},
  {"question": "what", "answers": [],
   "positive_ctxs": [{"title": "T2", "text": "two", "passage_id": "6"}, {"title": "T1", "text": "one }", "passage_id": "5"}],
   "negative_ctxs": [], "hard_negative_ctxs": []}
]
"#;
const DPR_DEV: &[u8] =
    br#"[{"question":"new","positive_ctxs":[{"title":"T9","text":"nine","passage_id":"9"}],"negative_ctxs":[]}]"#;

#[test]
fn dpr_without_passages_is_the_union_of_contexts() {
    let dir = collection(&[
        ("biencoder-nq-train.json", DPR_TRAIN),
        ("dev.json.gz", DPR_DEV),
    ]);
    assert_eq!(Format::detect(dir.path()).unwrap(), Format::Dpr);
    assert_eq!(Format::Dpr.splits(dir.path()).unwrap(), ["dev", "train"]);
    let prepared = Prepared::new(dir.path(), &options(Format::Dpr, &["train", "dev"]));
    let corpus = prepared.corpus();
    assert_eq!(ids(&corpus), ["5", "6", "7", "9"]);
    assert_eq!((corpus.text(0), corpus.text(2)), ("T1 one }", "three \\"));
    let train = prepared.queries("train");
    assert_eq!(
        (train.id(0), train.text(0)),
        ("train-0", "who [is] \"it\"}")
    );
    assert_eq!(train.positives(1).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(
        prepared.queries("dev").positives(0).collect::<Vec<_>>(),
        [3]
    );
    assert!(prepared.manifest.dropped.is_empty());
}

#[test]
fn dpr_with_passages() {
    let passages = b"id\ttext\ttitle\n5\t\"one \"\"quoted\"\"\"\tT1\n6\ttwo\tT2\n";
    let dir = collection(&[("train.json", DPR_TRAIN), ("psgs_w100.tsv.gz", passages)]);
    let prepared = Prepared::new(dir.path(), &options(Format::Dpr, &["train"]));
    let corpus = prepared.corpus();
    assert_eq!(ids(&corpus), ["5", "6"]);
    assert_eq!(corpus.text(0), "T1 one \"quoted\"");
}

#[test]
fn tevatron_with_and_without_corpus() {
    let train = br#"{"query_id": 1, "query": "a", "positive_passages": [{"docid": "x", "title": "X", "text": "ex"}], "negative_passages": [{"docid": "y", "title": "", "text": "why"}]}
{"query_id": "2", "query": "b", "positive_passages": [{"docid": "y", "title": "", "text": "why"}], "negative_passages": []}
"#;
    let dir = collection(&[("train.jsonl", train)]);
    assert_eq!(Format::detect(dir.path()).unwrap(), Format::Tevatron);
    let prepared = Prepared::new(dir.path(), &options(Format::Tevatron, &["train"]));
    assert_eq!(ids(&prepared.corpus()), ["x", "y"]);
    assert_eq!(prepared.corpus().text(0), "X ex");
    assert_eq!(
        prepared.queries("train").positives(1).collect::<Vec<_>>(),
        [1]
    );

    let corpus = br#"{"docid": "w", "title": "", "text": "w"}
{"docid": "y", "title": "", "text": "y"}
{"docid": "x", "title": "", "text": "x"}
"#;
    let dir = collection(&[("train.jsonl.gz", train), ("corpus.jsonl.gz", corpus)]);
    assert_eq!(Format::detect(dir.path()).unwrap(), Format::Tevatron);
    let prepared = Prepared::new(dir.path(), &options(Format::Tevatron, &["train"]));
    assert_eq!(ids(&prepared.corpus()), ["w", "y", "x"]);
    assert_eq!(
        prepared.queries("train").positives(0).collect::<Vec<_>>(),
        [2]
    );
}

#[test]
fn names_of_formats() {
    for format in [Format::Beir, Format::MsMarco, Format::Dpr, Format::Tevatron] {
        assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        assert_eq!(
            serde_json::to_string(&format).unwrap(),
            format!("\"{format}\"")
        );
    }
    let error = "trec".parse::<Format>().unwrap_err().to_string();
    assert_eq!(
        error,
        "the option format is wrong: \"trec\" is unknown, so choose beir, msmarco, dpr or tevatron"
    );
}
