//! Files that cannot be read to their end, or are not there: refused under every policy.

use quarry_corpus::Format;

use crate::faults::{CORPUS, QRELS, QUERIES, beir, lenient};
use crate::{collection, options, refusal};

#[test]
fn broken_arrays_are_refused_under_every_policy() {
    let record = "{\"question\":\"a\",\"positive_ctxs\":[{\"passage_id\":\"1\",\"text\":\"x\"}]}";
    for (array, line, reason) in [
        (
            format!("{{\"data\": [{record}]}}"),
            1,
            "it is no JSON array",
        ),
        (format!("[{record}\n,\n7]"), 3, "an element is no object"),
        (
            format!("[{record}\n{record}]"),
            2,
            "there is no comma between two elements",
        ),
        (format!("[{record}\n"), 2, "the file ends inside the array"),
        (
            format!("[{record},\n{}", &record[..30]),
            2,
            "the file ends inside an object",
        ),
        (format!("[{record},\n]"), 2, "a comma stands before the end"),
        (
            format!("[{record}]\n\n]"),
            3,
            "something follows the end of the array",
        ),
        (String::new(), 1, "it is no JSON array"),
    ] {
        let dir = collection(&[("train.json", array.as_bytes())]);
        let message = refusal(dir.path(), &lenient(Format::Dpr, &["train"]));
        let place = format!("line {line} of {}", dir.path().join("train.json").display());
        assert!(
            message.starts_with(&place) && message.contains(reason),
            "{message}"
        );
    }
}

#[test]
fn tab_separated_faults() {
    let files = |collection: &'static [u8]| -> [(&'static str, &'static [u8]); 3] {
        [
            ("collection.tsv", collection),
            ("queries.dev.tsv", b"q\tquery\n"),
            ("qrels.dev.tsv", b"q\t0\t1\t1\n"),
        ]
    };
    let dir = collection(&files(b"1\ta\n2\tb\tc\n"));
    let message = refusal(dir.path(), &options(Format::MsMarco, &["dev"]));
    assert!(
        message.contains("line 2 of ")
            && message.contains("it has 3 tab-separated columns and not 2")
    );
    let dir = collection(&[
        ("collection.tsv", b"1\ta\n"),
        ("queries.dev.tsv", b"q\tq\n"),
        ("qrels.dev.tsv", b"q\t1\t1\n"),
    ]);
    let message = refusal(dir.path(), &options(Format::MsMarco, &["dev"]));
    assert!(
        message.contains("line 1 of ") && message.contains("it has 3 columns and not 4"),
        "{message}"
    );
}

#[test]
fn missing_and_ambiguous_files() {
    let dir = beir(CORPUS.as_bytes(), QUERIES.as_bytes(), QRELS.as_bytes());
    let message = refusal(dir.path(), &options(Format::Beir, &["test"]));
    assert!(
        message.starts_with("the split test is missing") && message.contains("present are dev"),
        "{message}"
    );
    std::fs::copy(
        dir.path().join("corpus.jsonl"),
        dir.path().join("corpus.jsonl.gz"),
    )
    .unwrap();
    assert!(refusal(dir.path(), &options(Format::Beir, &["dev"])).contains("remove one"));
    std::fs::remove_file(dir.path().join("corpus.jsonl")).unwrap();
    let message = refusal(dir.path(), &options(Format::Beir, &["dev"]));
    assert!(
        message.contains("corpus.jsonl.gz") && message.contains("gzip"),
        "{message}"
    );
    let empty = tempfile::tempdir().unwrap();
    let message = Format::detect(empty.path()).unwrap_err().to_string();
    assert!(
        message.starts_with("a collection is missing in"),
        "{message}"
    );
}

#[test]
fn the_missing_half_of_a_beir_folder_is_named() {
    for (present, missing) in [
        ("corpus.jsonl", "the file of queries is missing in "),
        ("queries.jsonl.gz", "the corpus is missing in "),
    ] {
        let dir = collection(&[(present, b"{}\n")]);
        let message = Format::detect(dir.path()).unwrap_err().to_string();
        assert!(message.starts_with(missing), "{message}");
        let other = match present {
            "corpus.jsonl" => "expected queries.jsonl",
            _ => "expected corpus.jsonl",
        };
        assert!(message.contains(other), "{message}");
    }
}

#[test]
fn truncated_gzip_is_refused_under_every_policy() {
    let dir = collection(&[
        ("corpus.jsonl.gz", CORPUS.as_bytes()),
        ("queries.jsonl", QUERIES.as_bytes()),
        ("qrels/dev.tsv", QRELS.as_bytes()),
    ]);
    let path = dir.path().join("corpus.jsonl.gz");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    let message = refusal(dir.path(), &lenient(Format::Beir, &["dev"]));
    assert!(
        message.starts_with("cannot read ")
            && message.contains("corpus.jsonl.gz to its end: ")
            && message.contains("truncated or not gzip")
            && !message.contains("free space"),
        "{message}"
    );
}

#[test]
fn gzip_by_another_name_is_refused_under_every_policy() {
    let dir = collection(&[
        ("corpus.jsonl.gz", CORPUS.as_bytes()),
        ("queries.jsonl", QUERIES.as_bytes()),
        ("qrels/dev.tsv", QRELS.as_bytes()),
    ]);
    let plain = dir.path().join("corpus.jsonl");
    std::fs::rename(dir.path().join("corpus.jsonl.gz"), &plain).unwrap();
    let message = refusal(dir.path(), &lenient(Format::Beir, &["dev"]));
    let plain = plain.display();
    assert!(
        message.starts_with(&format!("{plain} is compressed with gzip"))
            && message.ends_with(&format!("rename it to {plain}.gz")),
        "{message}"
    );
}
