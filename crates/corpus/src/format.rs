//! The layouts a collection may come in, and which of its files holds what.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::reader::{self, Records, files};
use crate::{CorpusError, Judgement, Passage, Query};

/// The layout of a collection's folder. Every file may also be compressed, with `.gz` at the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv` (arXiv 2104.08663).
    Beir,
    /// `collection.tsv`, `queries.<split>.tsv`, `qrels.<split>.tsv`.
    MsMarco,
    /// `<split>.json` or `*-<split>.json`, and `psgs_w100.tsv` where present (arXiv 2004.04906).
    Dpr,
    /// `<split>.jsonl`, and `corpus.jsonl` where present (arXiv 2203.05765).
    Tevatron,
}

impl Format {
    /// Recognises the layout of `dir` by the files in it.
    ///
    /// # Errors
    /// [`CorpusError::Missing`] when none fits, [`CorpusError::Io`].
    pub fn detect(dir: &Path) -> Result<Format, CorpusError> {
        let names = files::names(dir)?;
        let has = |name: &str| names.iter().any(|found| found == name);
        let ends = |end: &str| names.iter().any(|found| found.ends_with(end));
        let missing = |what: &str, expected: &str| CorpusError::Missing {
            what: what.into(),
            dir: dir.to_path_buf(),
            expected: expected.into(),
        };
        if has("corpus.jsonl") && has("queries.jsonl") {
            Ok(Format::Beir)
        } else if has("collection.tsv") {
            Ok(Format::MsMarco)
        } else if has("train.jsonl") || has("dev.jsonl") || has("test.jsonl") {
            Ok(Format::Tevatron)
        } else if has("psgs_w100.tsv") || ends("train.json") || ends("dev.json") {
            Ok(Format::Dpr)
        } else if has("corpus.jsonl") {
            Err(missing(
                "the file of queries",
                "queries.jsonl beside corpus.jsonl (beir) or train.jsonl (tevatron), plain or .gz",
            ))
        } else if has("queries.jsonl") {
            Err(missing(
                "the corpus",
                "corpus.jsonl beside queries.jsonl (beir), plain or .gz",
            ))
        } else {
            Err(missing(
                "a collection",
                "corpus.jsonl and queries.jsonl (beir), collection.tsv (msmarco), train.jsonl (tevatron) or train.json (dpr), plain or .gz",
            ))
        }
    }

    /// The splits that `dir` holds, sorted by name.
    ///
    /// # Errors
    /// [`CorpusError::Io`] when the folder cannot be read.
    pub fn splits(self, dir: &Path) -> Result<Vec<String>, CorpusError> {
        let names = match self {
            Format::Beir => files::names(&dir.join("qrels"))?,
            _ => files::names(dir)?,
        };
        let split = |name: &String| match self {
            Format::Beir => name.strip_suffix(".tsv").map(str::to_string),
            Format::MsMarco => name
                .strip_prefix("qrels.")?
                .strip_suffix(".tsv")
                .map(str::to_string),
            Format::Dpr => {
                let stem = name.strip_suffix(".json")?;
                let split = stem.rsplit_once('-').map_or(stem, |(_, split)| split);
                ["train", "dev", "test"]
                    .contains(&split)
                    .then(|| split.to_string())
            }
            Format::Tevatron => name
                .strip_suffix(".jsonl")
                .filter(|stem| *stem != "corpus")
                .map(str::to_string),
        };
        let mut splits: Vec<String> = names.iter().filter_map(split).collect();
        splits.sort();
        splits.dedup();
        Ok(splits)
    }

    /// The passages, one at a time. Without a corpus file (DPR, Tevatron) they are those that the records of `splits`
    /// carry, in order and with repetitions.
    ///
    /// # Errors
    /// [`CorpusError::Missing`] or [`CorpusError::Io`] now, faults of single lines as items.
    pub fn passages(self, dir: &Path, splits: &[String]) -> Result<Records<Passage>, CorpusError> {
        match self {
            Format::Beir => reader::beir::passages(dir),
            Format::MsMarco => reader::msmarco::passages(dir),
            Format::Dpr => reader::dpr::passages(dir, splits),
            Format::Tevatron => reader::tevatron::passages(dir, splits),
        }
    }

    /// The queries of the file that `split` takes its queries from; in BEIR and MS MARCO also queries without judgement.
    ///
    /// # Errors
    /// As [`Self::passages`].
    pub fn queries(self, dir: &Path, split: &str) -> Result<Records<Query>, CorpusError> {
        match self {
            Format::Beir => reader::beir::queries(dir),
            Format::MsMarco => reader::msmarco::queries(dir, split),
            Format::Dpr => reader::dpr::queries(dir, split),
            Format::Tevatron => reader::tevatron::queries(dir, split),
        }
    }

    /// The judgements of `split`, in file order.
    ///
    /// # Errors
    /// As [`Self::passages`].
    pub fn judgements(self, dir: &Path, split: &str) -> Result<Records<Judgement>, CorpusError> {
        match self {
            Format::Beir => reader::beir::judgements(dir, split),
            Format::MsMarco => reader::msmarco::judgements(dir, split),
            Format::Dpr => reader::dpr::judgements(dir, split),
            Format::Tevatron => reader::tevatron::judgements(dir, split),
        }
    }

    /// Whether [`Self::passages`] repeats passages by nature: then only another text for a known id is a fault.
    pub(crate) fn corpus_is_union(self, dir: &Path) -> Result<bool, CorpusError> {
        let corpus = match self {
            Format::Beir | Format::MsMarco => return Ok(false),
            Format::Dpr => files::find(dir, reader::dpr::CORPUS)?,
            Format::Tevatron => files::find(dir, reader::tevatron::CORPUS)?,
        };
        Ok(corpus.is_none())
    }

    /// Whether every query of a split's file belongs to the split, judged or not.
    pub(crate) fn split_lists_its_queries(self) -> bool {
        matches!(self, Format::Dpr | Format::Tevatron)
    }

    /// The splits by the file of queries that they share: one read each is enough.
    pub(crate) fn query_files(self, splits: &[String]) -> Vec<Vec<&String>> {
        match self {
            Format::Beir if splits.is_empty() => Vec::new(),
            Format::Beir => vec![splits.iter().collect()],
            _ => splits.iter().map(|split| vec![split]).collect(),
        }
    }

    /// [`CorpusError::Missing`] for a split, naming those that are there.
    pub(crate) fn missing_split(self, dir: &Path, split: &str, names: &str) -> CorpusError {
        let present = match self.splits(dir) {
            Ok(splits) if !splits.is_empty() => format!("present are {}", splits.join(", ")),
            _ => "no split is present".to_string(),
        };
        CorpusError::Missing {
            what: format!("the split {split}"),
            dir: PathBuf::from(dir),
            expected: format!("{names}, plain or .gz ({present})"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Beir => "beir",
            Format::MsMarco => "msmarco",
            Format::Dpr => "dpr",
            Format::Tevatron => "tevatron",
        })
    }
}

impl FromStr for Format {
    type Err = CorpusError;

    fn from_str(name: &str) -> Result<Self, CorpusError> {
        match name {
            "beir" => Ok(Format::Beir),
            "msmarco" => Ok(Format::MsMarco),
            "dpr" => Ok(Format::Dpr),
            "tevatron" => Ok(Format::Tevatron),
            _ => Err(CorpusError::Option {
                key: "format",
                reason: format!("{name:?} is unknown, so choose beir, msmarco, dpr or tevatron"),
            }),
        }
    }
}
