//! Flags and files that a single command must refuse, through the real command
//! line: with one sentence, before its work, and without harm to what is there.
#![allow(clippy::unwrap_used)]

use quarry_testkit::{Finished, Site};
use std::fs;
use std::path::{Path, PathBuf};

/// Asserts that the sentence of refusal has every one of `words` in it.
fn assert_says(finished: &Finished, words: &[&str]) {
    let said = finished.refusal();
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

/// Asserts that the command line itself was refused, naming `words`.
fn assert_usage(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.starts_with("error: "), "{finished:?}");
    for word in words {
        assert!(finished.stderr.contains(word), "{finished:?}");
    }
}

fn encode(site: &Site, input: &Path, output: &Path) -> Finished {
    encode_with(site, input, output, &[])
}

fn encode_with(site: &Site, input: &Path, output: &Path, more: &[&str]) -> Finished {
    let model = site.model();
    let paths = [model.as_path(), input, output].map(|path| path.to_str().unwrap());
    let fixed = [
        "encode",
        "--model",
        paths[0],
        "--input",
        paths[1],
        "--output",
        paths[2],
        "--threads",
        "1",
    ];
    site.quarry(&[&fixed, more].concat())
}

fn eval(site: &Site, arguments: &[&str]) -> Finished {
    let data = site.data();
    let fixed = ["eval", "--data", data.to_str().unwrap(), "--split", "dev"];
    site.quarry(&[&fixed, arguments].concat())
}

/// Tokenises the collection into the store `prepared`, and starts no run.
fn prepare(site: &Site) -> (PathBuf, Finished) {
    let (data, model, store) = (site.data(), site.model(), site.path("prepared"));
    let paths = [&data, &model, &store].map(|path| path.to_str().unwrap());
    let finished = site.quarry(&[
        "prepare",
        "--data",
        paths[0],
        "--model",
        paths[1],
        "--store",
        paths[2],
        "--set",
        "model.query_length=32",
        "--set",
        "train.passage_length=48",
    ]);
    (store, finished)
}

#[test]
fn encoding() {
    let site = Site::new();
    let (texts, vectors) = (site.path("texts.jsonl"), site.path("vectors"));
    let good = "\u{feff}{\"_id\":\"a\",\"text\":\"one text\"}\n{\"text\":\"another\"}\n";
    fs::write(&texts, good).unwrap();
    let _ = encode(&site, &texts, &vectors).succeeded();
    let ids = fs::read_to_string(site.path("vectors.ids")).unwrap();
    assert_eq!(ids, "a\n1\n");

    let refused = encode(&site, &texts, &texts);
    assert_says(&refused, &["texts.jsonl would replace", "--output"]);
    assert_eq!(fs::read_to_string(&texts).unwrap(), good);
    let refused = encode(&site, &texts, &site.path("missing/vectors"));
    assert_says(&refused, &["cannot write", "missing/vectors"]);

    let before = fs::read(&vectors).unwrap();
    fs::write(&texts, format!("{good}[\"b\",\"text\"]\n")).unwrap();
    let refused = encode(&site, &texts, &vectors);
    assert_says(
        &refused,
        &[
            "line 3 of ",
            "texts.jsonl",
            "is malformed",
            "not a JSON object",
        ],
    );
    assert_eq!(fs::read(&vectors).unwrap(), before, "it was replaced");

    let odd = "{\"_id\":\"a\",\"text\":\" \"}\n";
    fs::write(&texts, format!("{good}{odd}")).unwrap();
    let kept = encode(&site, &texts, &vectors).succeeded();
    for words in [
        "1 of 3 texts are blank, the first on line 3",
        "repeat an id",
    ] {
        assert!(kept.stderr.contains(words), "{kept:?}");
    }
    let ids = fs::read_to_string(site.path("vectors.ids")).unwrap();
    assert_eq!(ids, "a\n1\na\n");
}

#[test]
fn choosing_a_device() {
    let site = Site::new();
    let texts = site.path("texts.jsonl");
    fs::write(&texts, "{\"text\":\"one text\"}\n{\"text\":\"another\"}\n").unwrap();
    let vectors = [site.path("default"), site.path("cpu")];
    let encoded = |output: &Path, more: &[&str]| encode_with(&site, &texts, output, more);
    let chosen = encoded(&vectors[0], &["--json"]).succeeded().json();
    let asked = encoded(&vectors[1], &["--json", "--device", "cpu"]);
    let asked = asked.succeeded().json();
    assert_eq!(asked["texts"], 2);
    assert_eq!(asked["device"], "cpu");
    for key in [
        "seconds",
        "loading_seconds",
        "tokenise_seconds",
        "encode_seconds",
    ] {
        assert!(asked[key].as_f64().unwrap() >= 0.0, "{key} in {asked}");
    }
    let model = site.model();
    let scored = |device: &str| {
        let arguments = ["--model", model.to_str().unwrap(), "--device", device];
        eval(&site, &arguments)
    };
    let (auto, cpu) = (scored("auto").succeeded(), scored("cpu").succeeded());
    if chosen["device"] == "cpu" {
        let [default, cpu_bits] = vectors.each_ref().map(|path| fs::read(path).unwrap());
        assert!(default == cpu_bits, "--device cpu changes the vectors");
        assert_eq!(auto.stdout, cpu.stdout);
    } else {
        eprintln!("SKIPPED: the default is a GPU here, whose vectors are not a processor's");
    }

    let absent = ["there is no GPU 99", "choose another --device"];
    assert_says(&encoded(&vectors[0], &["--device", "cuda:99"]), &absent);
    assert_says(&scored("cuda:99"), &absent);
    assert_usage(
        &encoded(&vectors[0], &["--device", "gpu"]),
        &["--device", "cuda:N"],
    );
    let sparse = eval(&site, &["--bm25", "--device", "cuda:99"]).succeeded();
    assert!(sparse.stderr.contains("--device is not used"), "{sparse:?}");
}

#[test]
fn a_failure_to_read_is_said_once() {
    let site = Site::new();
    let absent = site.path("absent.jsonl");
    let refused = encode(&site, &absent, &site.path("vectors"));
    assert_says(&refused, &["absent.jsonl", "No such file"]);
    assert_eq!(refused.refusal().matches("os error 2").count(), 1);

    let cut = site.path("cut.jsonl.gz");
    fs::write(&cut, b"\x1f\x8b\x08\x00").unwrap();
    let refused = encode(&site, &cut, &site.path("vectors"));
    assert_says(&refused, &["cut.jsonl.gz", "truncated or not gzip"]);
    assert!(!refused.refusal().contains("permissions"), "{refused:?}");
}

#[test]
fn evaluating() {
    let site = Site::new();
    let model = site.model();
    let model = model.to_str().unwrap();
    let sparse = eval(&site, &["--model", model, "--bm25"]).succeeded();
    assert!(sparse.stderr.contains("--model is not used"), "{sparse:?}");
    for weight in ["nan", "inf"] {
        let refused = eval(&site, &["--model", model, "--hybrid", weight]);
        assert_usage(&refused, &["--hybrid", "finite"]);
    }
    let refused = eval(&site, &["--model", model, "--threads", "100000"]);
    assert_usage(&refused, &["--threads", "1024"]);
    let shallow = ["--bm25", "--depth", "5", "--metrics", "mrr@5,recall@100"];
    assert_says(
        &eval(&site, &shallow),
        &["recall@100", "--depth ranks 5", "--depth 100 or more"],
    );
    let _ = eval(&site, &["--bm25", "--depth", "5", "--metrics", "mrr@5,map"]).succeeded();
}

#[test]
fn a_fault_that_may_pass_names_the_flag() {
    let site = Site::new();
    let corpus = site.data().join("corpus.jsonl");
    let text = fs::read_to_string(&corpus).unwrap();
    let line = format!("line {} of ", text.lines().count() + 1);
    fs::write(&corpus, format!("{text}[\"zz\",\"what is\",\"x\"]\n")).unwrap();
    let fault = [
        line.as_str(),
        "corpus.jsonl is malformed: it is not a JSON object",
    ];
    let key = "--set data.strictness.malformed=drop";
    assert_says(&prepare(&site).1, &[fault[0], fault[1], key]);
    assert_says(
        &eval(&site, &["--bm25"]),
        &[fault[0], fault[1], "--lenient"],
    );
    let _ = eval(&site, &["--bm25", "--lenient"]).succeeded();
}

#[test]
fn searching() {
    let site = Site::new();
    let (store, prepared) = prepare(&site);
    let _ = prepared.succeeded();
    let store = store.to_str().unwrap();
    let search =
        |arguments: &[&str]| site.quarry(&[&["search", "--store", store], arguments].concat());
    assert_says(&search(&["-k", "0", "text"]), &["-k must be at least 1"]);
    assert_says(&search(&[" "]), &["the question is empty"]);
    assert_says(
        &search(&["text"]),
        &["prepared", "holds no run", "quarry run"],
    );
}

#[test]
fn scoring() {
    let site = Site::new();
    let (qrels, run) = (site.data().join("qrels/dev.tsv"), site.path("other.trec"));
    let score = || {
        let paths = [&qrels, &run].map(|path| path.to_str().unwrap());
        site.quarry(&["score", "--qrels", paths[0], "--run", paths[1], "--json"])
    };
    fs::write(&run, "nobody Q0 Normans#0 1 1.0 t\n").unwrap();
    assert_says(&score(), &["other.trec ranks nothing", "qrels/dev.tsv"]);
    let judged = fs::read_to_string(&qrels).unwrap();
    let query = judged.lines().nth(1).unwrap().split('\t').next().unwrap();
    fs::write(&run, format!("{query} Q0 Normans#0 1 1.0 t\n")).unwrap();
    assert_eq!(score().succeeded().json()["missing"], 19);
}
