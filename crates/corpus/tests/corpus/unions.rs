//! Where the corpus is what the records carry, an id may come often, but with one text.

use quarry_corpus::{Format, PrepareOptions};
use tempfile::TempDir;

use crate::faults::lenient;
use crate::{Prepared, collection, ids, options, refusal};

/// The passage `x` comes with one text in another layout, with another text, and without its title.
fn tevatron() -> TempDir {
    let train = r#"{"query_id":"1","query":"a","positive_passages":[{"docid":"x","title":"T","text":"one text"}]}
{"query_id":"2","query":"b","positive_passages":[{"docid":"x","title":"T","text":"one  text "}]}
{"query_id":"3","query":"c","positive_passages":[{"docid":"x","title":"T","text":"another"}],"negative_passages":[{"docid":"x","text":"one text"}]}
"#;
    collection(&[("train.jsonl", train.as_bytes())])
}

/// Prepares without the policy that lets another text pass, then with it.
fn both(dir: &TempDir, format: Format, file: &str, again: u64, first: u64) -> Prepared {
    let message = refusal(dir.path(), &options(format, &["train"]));
    let path = dir.path().join(file).display().to_string();
    assert!(
        message.starts_with(&format!("line {again} of {path} gives the passage \"x\" "))
            && message.contains(&format!("another text than line {first} of {path}")),
        "{message}"
    );
    let mut options: PrepareOptions = options(format, &["train"]);
    options.strictness.duplicate_id = lenient(format, &["train"]).strictness.duplicate_id;
    Prepared::new(dir.path(), &options)
}

#[test]
fn another_text_for_a_carried_id_is_refused_or_counted() {
    let prepared = both(&tevatron(), Format::Tevatron, "train.jsonl", 3, 1);
    assert_eq!(prepared.manifest.dropped["duplicate_passages"], 2);
    assert_eq!(prepared.manifest.dropped.len(), 1);
    assert_eq!(ids(&prepared.corpus()), ["x"]);
    assert_eq!(prepared.corpus().text(0), "T one text");

    let train = "[{\"question\":\"a\",\"positive_ctxs\":[{\"passage_id\":\"x\",\"text\":\"one\"}]},\n{\"question\":\"b\",\n\"positive_ctxs\":[{\"passage_id\":\"x\",\"text\":\"two\"}]}]";
    let dir = collection(&[("train.json", train.as_bytes())]);
    let prepared = both(&dir, Format::Dpr, "train.json", 2, 1);
    assert_eq!(prepared.manifest.dropped["duplicate_passages"], 1);
    assert_eq!(prepared.corpus().text(0), "one");
}

#[test]
fn the_same_text_for_a_carried_id_is_no_fault_in_any_split() {
    let record = |query: u32, text: &str| {
        format!(
            "{{\"query_id\":{query},\"query\":\"a\",\"positive_passages\":[{{\"docid\":\"x\",\"text\":\"{text}\"}}]}}\n"
        )
    };
    let (train, dev) = (record(1, "same"), record(2, "same"));
    let dir = collection(&[
        ("train.jsonl", train.as_bytes()),
        ("dev.jsonl", dev.as_bytes()),
    ]);
    let options = options(Format::Tevatron, &["train", "dev"]);
    assert!(
        Prepared::new(dir.path(), &options)
            .manifest
            .dropped
            .is_empty()
    );
    // The other text stands in another file.
    std::fs::write(dir.path().join("dev.jsonl"), record(2, "other")).unwrap();
    let message = refusal(dir.path(), &options);
    assert!(
        message.contains("dev.jsonl gives the passage") && message.contains("train.jsonl;"),
        "{message}"
    );
}
