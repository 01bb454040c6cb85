//! Preparing holds judgements, one shard and bounded tables: its memory does not grow with the corpus.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use quarry_corpus::{Format, PrepareOptions, Strictness, Tokenize, prepare};

/// Allowed between the two sizes: the 4 MiB of ids that wait to be spilled, and what the allocator keeps.
const GROWTH: u64 = 7 << 20;
const FEW: usize = 10_000;
const MANY: usize = 150_000;

/// One token a word.
struct Words;

impl Tokenize for Words {
    fn content_ids(&self, texts: &[String], _: usize) -> Result<Vec<Vec<u32>>, String> {
        let ids = |text: &String| text.split(' ').map(|word| word.len() as u32).collect();
        Ok(texts.iter().map(ids).collect())
    }

    fn digest(&self) -> String {
        "words".into()
    }
}

/// The most memory this process ever held, in bytes.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

fn prepared(dir: &Path, passages: usize) -> u64 {
    std::fs::create_dir_all(dir.join("qrels")).unwrap();
    let mut corpus = BufWriter::new(File::create(dir.join("corpus.jsonl")).unwrap());
    for number in 0..passages {
        let text = format!("passage {number} tells of the number {}", number / 3);
        writeln!(corpus, "{{\"_id\":\"p{number}\",\"text\":\"{text}\"}}").unwrap();
    }
    corpus.flush().unwrap();
    std::fs::write(
        dir.join("queries.jsonl"),
        "{\"_id\":\"q\",\"text\":\"which\"}",
    )
    .unwrap();
    std::fs::write(dir.join("qrels/train.tsv"), "q\tp7\t1\n").unwrap();
    let options = PrepareOptions {
        format: Format::Beir,
        shard_passages: 1000,
        passage_prefix: String::new(),
        query_prefix: String::new(),
        passage_tokens: 64,
        query_tokens: 64,
        splits: vec!["train".into()],
        strictness: Strictness::default(),
    };
    prepare(dir, &dir.join("out"), &Words, &options, &mut |_| {})
        .unwrap()
        .passages
}

#[test]
fn preparing_many_passages_takes_no_more_memory_than_few() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(prepared(&dir.path().join("few"), FEW), FEW as u64);
    let Some(before) = peak() else {
        println!("SKIPPED: this system has no /proc/self/status with VmHWM");
        return;
    };
    assert_eq!(prepared(&dir.path().join("many"), MANY), MANY as u64);
    let grown = peak().unwrap() - before;
    println!("{FEW} passages: {before} bytes; {MANY}: {grown} more");
    assert!(
        grown < GROWTH,
        "{grown} bytes more for {MANY} passages than for {FEW}"
    );
}
