//! A record is a JSON object, and what it carries are objects: an array of the same values is no substitute.

use quarry_corpus::{CorpusError, Format, Passage, read_texts};

use crate::faults::{CORPUS, QRELS, QUERIES, beir, lenient};
use crate::{Prepared, collection, ids, options, refusal};

#[test]
fn arrays_and_bare_values_are_no_lines() {
    for line in ["[\"zz\",\"what is\",\"x\"]", "\"text\"", "7", "null"] {
        let corpus = format!("{CORPUS}  {line}\n");
        let dir = beir(corpus.as_bytes(), QUERIES.as_bytes(), QRELS.as_bytes());
        let message = refusal(dir.path(), &options(Format::Beir, &["dev"]));
        let place = format!("line 3 of {}", dir.path().join("corpus.jsonl").display());
        assert!(
            message.starts_with(&format!("{place} is malformed: it is not a JSON object")),
            "{message}"
        );
        let prepared = Prepared::new(dir.path(), &lenient(Format::Beir, &["dev"]));
        assert_eq!(prepared.manifest.dropped["malformed_lines"], 1);
        assert_eq!(ids(&prepared.corpus()), ["a", "b"]);
    }
    let queries = format!("{QUERIES}[\"s\",\"third\"]\n");
    let dir = beir(CORPUS.as_bytes(), queries.as_bytes(), QRELS.as_bytes());
    let message = refusal(dir.path(), &options(Format::Beir, &["dev"]));
    assert!(
        message.contains("queries.jsonl is malformed: it is not a JSON object"),
        "{message}"
    );
}

#[test]
fn records_and_their_passages_are_objects() {
    for (name, format, text, reason) in [
        (
            "train.jsonl",
            Format::Tevatron,
            "[\"1\",\"a\",[{\"docid\":\"x\",\"text\":\"ex\"}]]\n",
            "it is not a JSON object",
        ),
        (
            "train.jsonl",
            Format::Tevatron,
            "{\"query_id\":\"1\",\"query\":\"a\",\"positive_passages\":[[\"x\",\"T\",\"ex\"]]}\n",
            "expected a JSON object",
        ),
        (
            "train.json",
            Format::Dpr,
            "[{\"question\":\"a\",\"positive_ctxs\":[[\"x\",\"T\",\"ex\"]]}]",
            "expected a JSON object",
        ),
    ] {
        let dir = collection(&[(name, text.as_bytes())]);
        let message = refusal(dir.path(), &options(format, &["train"]));
        assert!(
            message.starts_with("line 1 of ") && message.contains(reason),
            "{message}"
        );
    }
}

fn texts(bytes: &[u8]) -> Vec<Result<Passage, CorpusError>> {
    let dir = collection(&[("texts.jsonl", bytes)]);
    let read = read_texts(&dir.path().join("texts.jsonl")).unwrap();
    read.map(|text| text.map(|located| located.value)).collect()
}

#[test]
fn texts_to_encode_need_no_id() {
    let texts = texts(
        "\u{feff}{\"_id\":\"a\",\"title\":\"T\",\"text\":\"x\"}\n\n{\"contents\":\"y\"}\n{\"_id\":5,\"text\":\"z\",\"contents\":\"-\"}\n{\"body\":\"x\"}\nnot json\n".as_bytes(),
    );
    let read: Vec<(&str, String)> = texts[..3]
        .iter()
        .map(|text| text.as_ref().unwrap())
        .map(|text| (text.id.as_str(), text.full_text()))
        .collect();
    let expected = [("a", "T x"), ("2", "y"), ("5", "z")];
    assert_eq!(read, expected.map(|(id, text)| (id, text.to_owned())));
    for (text, reason) in [
        (&texts[3], "line 5 of "),
        (&texts[3], "it has neither `text` nor `contents`"),
        (&texts[4], "line 6 of "),
        (&texts[4], "it is not a JSON object"),
    ] {
        let error = text.as_ref().unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(error.policy(), Some("malformed"));
    }
}
