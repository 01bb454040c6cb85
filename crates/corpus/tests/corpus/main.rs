//! Collections on disk, from every format to the tables.
#![allow(clippy::unwrap_used)]

mod broken_files;
mod faults;
mod formats;
mod records;
mod squad_mini;
mod tables;
mod twins;
mod unions;

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, write::GzEncoder};
use quarry_corpus::{
    Corpus, CorpusError, CorpusManifest, Format, PrepareOptions, QuerySet, Strictness, Tokenize,
    prepare,
};
use tempfile::TempDir;

/// One token a word: its length in bytes.
struct Words;

impl Tokenize for Words {
    fn content_ids(&self, texts: &[String], max_tokens: usize) -> Result<Vec<Vec<u32>>, String> {
        Ok(texts.iter().map(|text| words(text, max_tokens)).collect())
    }

    fn digest(&self) -> String {
        "word lengths".into()
    }
}

fn words(text: &str, max_tokens: usize) -> Vec<u32> {
    text.split_whitespace()
        .take(max_tokens)
        .map(|word| word.len() as u32)
        .collect()
}

fn options(format: Format, splits: &[&str]) -> PrepareOptions {
    PrepareOptions {
        format,
        shard_passages: 2,
        passage_prefix: String::new(),
        query_prefix: String::new(),
        passage_tokens: 128,
        query_tokens: 32,
        splits: splits.iter().map(|split| split.to_string()).collect(),
        strictness: Strictness::default(),
    }
}

/// A folder with the given files; those whose name ends in `.gz` are compressed.
fn collection(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = std::fs::File::create(&path).unwrap();
        if name.ends_with(".gz") {
            let mut encoder = GzEncoder::new(file, Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap();
        } else {
            file.write_all(bytes).unwrap();
        }
    }
    dir
}

/// A prepared collection and the folder it lies in.
struct Prepared {
    out: TempDir,
    manifest: CorpusManifest,
}

impl Prepared {
    fn try_new(dir: &Path, options: &PrepareOptions) -> Result<Prepared, CorpusError> {
        let out = tempfile::tempdir().unwrap();
        let manifest = prepare(dir, out.path(), &Words, options, &mut |_| {})?;
        Ok(Prepared { out, manifest })
    }

    fn new(dir: &Path, options: &PrepareOptions) -> Prepared {
        Self::try_new(dir, options).unwrap()
    }

    fn shards(&self) -> Vec<PathBuf> {
        self.manifest
            .shards
            .iter()
            .map(|shard| self.out.path().join(&shard.file))
            .collect()
    }

    fn corpus(&self) -> Corpus {
        Corpus::open(&self.shards()).unwrap()
    }

    fn queries(&self, split: &str) -> QuerySet {
        QuerySet::open(&self.out.path().join(&self.manifest.queries[split].file)).unwrap()
    }
}

/// The ids of the corpus, by row.
fn ids(corpus: &Corpus) -> Vec<&str> {
    (0..corpus.passages() as u32)
        .map(|row| corpus.id(row))
        .collect()
}

/// The message of the refusal.
fn refusal(dir: &Path, options: &PrepareOptions) -> String {
    match Prepared::try_new(dir, options) {
        Ok(prepared) => panic!("it was accepted: {:?}", prepared.manifest),
        Err(error) => error.to_string(),
    }
}
