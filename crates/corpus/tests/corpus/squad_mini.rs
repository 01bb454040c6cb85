//! The real collection of the repository.

use std::path::PathBuf;

use quarry_corpus::{Format, PrepareOptions, Stage, prepare};
use sha2::{Digest, Sha256};

use crate::{Prepared, Words, options, words};

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../data/squad-mini")
}

fn squad_options() -> PrepareOptions {
    PrepareOptions {
        shard_passages: 250,
        passage_tokens: 100,
        ..options(Format::Beir, &["train", "dev", "test"])
    }
}

#[test]
fn counts_are_those_of_its_description() {
    assert_eq!(Format::detect(&data()).unwrap(), Format::Beir);
    let prepared = Prepared::new(&data(), &squad_options());
    let manifest = &prepared.manifest;
    assert_eq!(manifest.passages, 605);
    let shards: Vec<(u32, u32)> = manifest
        .shards
        .iter()
        .map(|shard| (shard.first_row, shard.passages))
        .collect();
    assert_eq!(shards, [(0, 250), (250, 250), (500, 105)]);
    let queries: Vec<(&str, u32, u64)> = manifest
        .queries
        .iter()
        .map(|(split, entry)| (split.as_str(), entry.queries, entry.positives))
        .collect();
    assert_eq!(
        queries,
        [("dev", 250, 250), ("test", 500, 500), ("train", 2018, 2018)]
    );
    assert!(manifest.dropped.is_empty());

    let corpus = prepared.corpus();
    assert_eq!(
        (corpus.passages(), corpus.id(0), corpus.id(1)),
        (605, "Black_Death#0", "Black_Death#1")
    );
    assert!(
        corpus
            .text(0)
            .starts_with("Black Death The Black Death is thought to have originated")
    );
    let longer = corpus
        .texts()
        .filter(|(_, text)| text.split_whitespace().count() > 100)
        .count();
    assert_eq!(manifest.truncated_passages, longer as u64);
    for (split, entry) in &manifest.queries {
        let set = prepared.queries(split);
        let longer = (0..set.len()).filter(|i| set.text(*i).split_whitespace().count() > 32);
        assert_eq!(entry.truncated, longer.count() as u64, "{split}");
    }
    for (row, text) in corpus.texts() {
        assert_eq!(corpus.tokens(row), words(text, 100));
        assert_eq!(corpus.text_hash(row), quarry_corpus::text_hash(text));
    }
    let dev = prepared.queries("dev");
    let normans = (0..dev.len())
        .find(|i| dev.id(*i) == "56de0daecffd8e1900b4b595")
        .unwrap();
    assert_eq!(
        dev.positives(normans)
            .map(|row| corpus.id(row))
            .collect::<Vec<_>>(),
        ["Normans#8"]
    );
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let one = Prepared::new(&data(), &squad_options());
    let two = Prepared::new(&data(), &squad_options());
    assert_eq!(one.manifest, two.manifest);
    assert_eq!(one.manifest.digest(), two.manifest.digest());
    let files = (one
        .manifest
        .shards
        .iter()
        .map(|shard| (&shard.file, &shard.sha256, shard.size)))
    .chain(
        one.manifest
            .queries
            .values()
            .map(|entry| (&entry.file, &entry.sha256, entry.size)),
    );
    for (file, sha256, size) in files {
        for prepared in [&one, &two] {
            let bytes = std::fs::read(prepared.out.path().join(file)).unwrap();
            assert_eq!(format!("{:x}", Sha256::digest(&bytes)), *sha256);
            assert_eq!(bytes.len() as u64, size);
        }
    }
    // Nothing but the named files is left.
    assert_eq!(std::fs::read_dir(one.out.path()).unwrap().count(), 6);
    let json = one.manifest.to_json();
    assert_eq!(
        serde_json::from_str::<quarry_corpus::CorpusManifest>(&json).unwrap(),
        one.manifest
    );
}

#[test]
fn progress_ends_at_its_totals() {
    let out = tempfile::tempdir().unwrap();
    let mut reports = Vec::new();
    prepare(
        &data(),
        out.path(),
        &Words,
        &squad_options(),
        &mut |report| reports.push(report),
    )
    .unwrap();
    for (stage, total) in [
        (Stage::Checking, 605),
        (Stage::Passages, 605),
        (Stage::Queries, 2768),
    ] {
        let last = reports
            .iter()
            .rfind(|report| report.stage == stage)
            .unwrap();
        assert_eq!((last.done, last.of), (total, Some(total)));
    }
}
