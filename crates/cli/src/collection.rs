//! A collection on disk made ready for one command: read, checked and tokenised
//! into a folder that goes with the value.

use crate::resources;
use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use quarry_corpus::{
    Corpus, CorpusError, CorpusManifest, Format, PrepareOptions, QueriesEntry, QuerySet,
    Strictness, Tokenize, prepare,
};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Passages in a shard where nobody leases shards: bounds memory, no more.
const SHARD_PASSAGES: usize = 16_384;

/// How a command is told to leave faulty items out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leniency {
    /// Kind by kind, by a key of the recipe.
    Key,
    /// All kinds at once, by `--lenient`.
    Flag,
}

impl Leniency {
    /// The error, with what lets it pass if anything does.
    fn offer(self, error: CorpusError) -> anyhow::Error {
        let Some(policy) = error.policy() else {
            return error.into();
        };
        match self {
            Self::Key => {
                anyhow!("{error}, or leave such items out with --set data.strictness.{policy}=drop")
            }
            Self::Flag => anyhow!("{error}, or leave such items out with --lenient"),
        }
    }
}

/// How texts become tokens for one command.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Layout of the folder; `None` looks.
    pub format: Option<Format>,
    /// Content tokens kept of a passage.
    pub passage_tokens: usize,
    /// Content tokens kept of a query.
    pub query_tokens: usize,
    /// Put before each passage.
    pub passage_prefix: String,
    /// Put before each query.
    pub query_prefix: String,
    /// What to do with faults.
    pub strictness: Strictness,
}

/// A prepared collection with one split.
pub struct Collection {
    /// Its passages.
    pub corpus: Corpus,
    /// The split's queries.
    pub queries: QuerySet,
    _folder: TempDir,
}

impl Collection {
    /// Reads `data` with the queries of `split`.
    ///
    /// # Errors
    /// The first fault of the input, with file and line.
    pub fn open(
        data: &Path,
        split: &str,
        tokenizer: &dyn Tokenize,
        reading: &Reading,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("quarry-").tempdir()?;
        let options = PrepareOptions {
            format: format_of(data, reading.format)?,
            shard_passages: SHARD_PASSAGES,
            passage_prefix: reading.passage_prefix.clone(),
            query_prefix: reading.query_prefix.clone(),
            passage_tokens: reading.passage_tokens,
            query_tokens: reading.query_tokens,
            splits: vec![split.to_owned()],
            strictness: reading.strictness,
        };
        let manifest =
            prepare_with_progress(data, folder.path(), tokenizer, &options, Leniency::Flag)?;
        let shards: Vec<PathBuf> = manifest
            .shards
            .iter()
            .map(|s| folder.path().join(&s.file))
            .collect();
        let queries = manifest
            .queries
            .get(split)
            .with_context(|| format!("{} has no split {split}", data.display()))?;
        Ok(Self {
            corpus: Corpus::open(&shards)?,
            queries: QuerySet::open(&folder.path().join(&queries.file))?,
            _folder: folder,
        })
    }
}

/// The given layout, or the one the folder looks like.
///
/// # Errors
/// If the folder is missing or looks like none.
pub fn format_of(data: &Path, given: Option<Format>) -> Result<Format> {
    if !data.is_dir() {
        bail!(
            "no collection at {}: --data takes a folder with corpus.jsonl[.gz], queries.jsonl[.gz] and qrels/",
            data.display()
        );
    }
    Ok(match given {
        Some(format) => format,
        None => Format::detect(data)?,
    })
}

/// Prepares `data` into `out` and says how far it is.
///
/// # Errors
/// The first fault of the input, with file and line, and with what `leniency` has for it.
pub fn prepare_with_progress(
    data: &Path,
    out: &Path,
    tokenizer: &dyn Tokenize,
    options: &PrepareOptions,
    leniency: Leniency,
) -> Result<CorpusManifest> {
    let bar = counter("reading");
    let started = Instant::now();
    let manifest = prepare(data, out, tokenizer, options, &mut |progress| {
        bar.set_position(progress.done);
    })
    .map_err(|error| leniency.offer(error))?;
    bar.finish_and_clear();
    tracing::debug!(
        passages = manifest.passages,
        seconds = started.elapsed().as_secs_f64(),
        cores = resources::cores(),
        "collection prepared"
    );
    for (kind, count) in &manifest.dropped {
        tracing::warn!(count, "dropped {}", kind.replace('_', " "));
    }
    Ok(manifest)
}

/// The sizes of a prepared collection, and how much of it was cut (law 8), in one line.
#[must_use]
pub fn describe(manifest: &CorpusManifest) -> String {
    let of_split = |(split, entry): (&String, &QueriesEntry)| match entry.truncated {
        0 => format!("{} {split}", entry.queries),
        cut => format!(
            "{} {split} ({cut} cut to {} tokens)",
            entry.queries, manifest.query_tokens
        ),
    };
    let queries: Vec<String> = manifest.queries.iter().map(of_split).collect();
    format!(
        "{} passages in {} shards, {} cut to {} tokens; queries: {}",
        manifest.passages,
        manifest.shards.len(),
        manifest.truncated_passages,
        manifest.passage_tokens,
        queries.join(", ")
    )
}

/// A bar with a known end on a terminal; silent elsewhere.
#[must_use]
pub fn bar(what: &'static str, total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{msg:>10} {wide_bar} {pos}/{len}  {per_sec}  eta {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(what)
}

fn counter(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {pos}  {per_sec}") {
        bar.set_style(style);
    }
    bar
}

/// A tokenizer for commands that search words: keeps no ids.
pub struct NoTokens;

impl Tokenize for NoTokens {
    fn content_ids(&self, texts: &[String], _max_tokens: usize) -> Result<Vec<Vec<u32>>, String> {
        Ok(vec![Vec::new(); texts.len()])
    }

    fn digest(&self) -> String {
        "none".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_corpus::Place;
    use std::collections::BTreeMap;

    #[test]
    fn a_fault_that_may_pass_says_how_in_the_words_of_the_command() {
        let malformed = || CorpusError::Malformed {
            place: Place {
                file: Path::new("corpus.jsonl").into(),
                line: 3,
            },
            reason: "it is not a JSON object".to_owned(),
        };
        let said = |leniency: Leniency| leniency.offer(malformed()).to_string();
        let fault = "line 3 of corpus.jsonl is malformed: it is not a JSON object; correct it";
        assert_eq!(
            said(Leniency::Key),
            format!("{fault}, or leave such items out with --set data.strictness.malformed=drop")
        );
        assert_eq!(
            said(Leniency::Flag),
            format!("{fault}, or leave such items out with --lenient")
        );
        let broken = CorpusError::UnnamedGzip {
            path: PathBuf::from("corpus.jsonl"),
        };
        let message = broken.to_string();
        assert_eq!(Leniency::Key.offer(broken).to_string(), message);
    }

    #[test]
    fn a_collection_says_what_was_cut_of_passages_and_of_each_splits_queries() {
        let split = |queries, truncated| QueriesEntry {
            file: String::new(),
            queries,
            positives: u64::from(queries),
            size: 0,
            sha256: String::new(),
            tokens: 0,
            truncated,
        };
        let manifest = CorpusManifest {
            format: Format::Beir,
            passages: 605,
            shards: Vec::new(),
            queries: BTreeMap::from([
                ("dev".to_owned(), split(250, 0)),
                ("train".to_owned(), split(2018, 7)),
            ]),
            tokenizer_digest: String::new(),
            passage_prefix: String::new(),
            query_prefix: String::new(),
            passage_tokens: 254,
            query_tokens: 30,
            dropped: BTreeMap::new(),
            truncated_passages: 12,
        };
        assert_eq!(
            describe(&manifest),
            "605 passages in 0 shards, 12 cut to 254 tokens; \
             queries: 250 dev, 2018 train (7 cut to 30 tokens)"
        );
    }
}
