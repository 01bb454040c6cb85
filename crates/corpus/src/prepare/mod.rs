//! From the files of a collection to shards and query sets.
//!
//! Two passes over the corpus. The first parses everything and finds every fault, so that a refusal comes before the
//! slow part; the second tokenises and writes. Memory holds the judgements, one shard and a bounded table of hashes:
//! it is flat in the size of the corpus.

mod admit;
mod duplicates;
mod judged;
mod tally;
mod write;

use std::collections::BTreeSet;
use std::path::Path;

use crate::{CorpusError, CorpusManifest, PrepareOptions, Tokenize};
use admit::{Admitted, Met, Stream};
use judged::Judged;
use tally::Tally;

/// What a preparation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading the corpus for faults; counts passages.
    Checking,
    /// Tokenising and writing shards; counts passages.
    Passages,
    /// Tokenising and writing query sets; counts queries.
    Queries,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareProgress {
    /// What is being done.
    pub stage: Stage,
    /// How many are done.
    pub done: u64,
    /// Of how many, where that is known.
    pub of: Option<u64>,
}

/// Rows between two reports of progress.
const REPORT_EVERY: u64 = 4096;

/// Reads the collection in `dir` and writes `shard-00000.arrow`, … and `queries-<split>.arrow` into `out`.
///
/// The same input and options give the same files, bit for bit. The manifest is returned and not written: publishing
/// it, last, is the caller's part.
///
/// # Errors
/// The first fault whose policy is [`crate::Policy::Refuse`], with its file and line; options that make no sense;
/// failures of the tokenizer and of the file system. Shards written before a failure stay, but no manifest names them.
pub fn prepare(
    dir: &Path,
    out: &Path,
    tokenizer: &dyn Tokenize,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(PrepareProgress),
) -> Result<CorpusManifest, CorpusError> {
    check(options)?;
    std::fs::create_dir_all(out).map_err(CorpusError::io("create", out))?;
    let mut tally = Tally::new(options.strictness);
    let mut judged = Judged::read(dir, options, &mut tally)?;
    judged.read_queries(dir, out, options, &mut tally)?;
    let admitted = survey(dir, out, options, &mut judged, &mut tally, progress)?;
    judged.settle(dir, &mut tally)?;

    let job = write::Job {
        dir,
        out,
        tokenizer,
        options,
    };
    let shards = job.shards(&admitted, &mut judged, &mut tally, progress)?;
    let queries = job.queries(&judged, progress)?;
    let dropped = tally.into_counts();
    if !dropped.is_empty() {
        tracing::warn!(?dropped, "the policies dropped parts of the collection");
    }
    Ok(CorpusManifest {
        format: options.format,
        passages: admitted.kept(),
        shards: shards.entries,
        queries,
        tokenizer_digest: tokenizer.digest(),
        passage_prefix: options.passage_prefix.clone(),
        query_prefix: options.query_prefix.clone(),
        passage_tokens: options.passage_tokens,
        query_tokens: options.query_tokens,
        dropped,
        truncated_passages: shards.truncated,
    })
}

/// The first pass: every fault of the corpus, and which judged passages exist.
fn survey(
    dir: &Path,
    out: &Path,
    options: &PrepareOptions,
    judged: &mut Judged,
    tally: &mut Tally,
    progress: &mut dyn FnMut(PrepareProgress),
) -> Result<Admitted, CorpusError> {
    let stream = Stream {
        open: || options.format.passages(dir, &options.splits),
        union: options.format.corpus_is_union(dir)?,
        dir,
        spill: out,
    };
    let mut done = 0;
    let mut report = |done, of| {
        let stage = Stage::Checking;
        progress(PrepareProgress { stage, done, of });
    };
    let admitted = stream.admit(tally, |passage| {
        if let Met::Full(passage) = passage {
            judged.passages.mark(&passage.value.id);
        }
        done += 1;
        if done % REPORT_EVERY == 0 {
            report(done, None);
        }
    })?;
    report(done, Some(done));
    if admitted.kept() == 0 {
        return Err(CorpusError::Nothing {
            what: "the corpus".into(),
            dir: dir.to_path_buf(),
        });
    }
    if admitted.kept() >= u64::from(u32::MAX) {
        return Err(CorpusError::Option {
            key: "format",
            reason: format!(
                "{} passages do not fit 32-bit rows, so split the collection",
                admitted.kept()
            ),
        });
    }
    Ok(admitted)
}

fn check(options: &PrepareOptions) -> Result<(), CorpusError> {
    let wrong = |key, reason: String| Err(CorpusError::Option { key, reason });
    let sizes = [
        ("shard_passages", options.shard_passages),
        ("passage_tokens", options.passage_tokens),
        ("query_tokens", options.query_tokens),
    ];
    for (key, size) in sizes {
        if size == 0 {
            return wrong(key, "it is 0 and must be at least 1".into());
        }
    }
    let mut seen = BTreeSet::new();
    for split in &options.splits {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if split.is_empty() || split.starts_with('.') || !split.chars().all(plain) {
            return wrong(
                "splits",
                format!("{split:?} is no name of letters, digits, dots, hyphens and underscores"),
            );
        }
        if !seen.insert(split) {
            return wrong("splits", format!("{split:?} is named twice"));
        }
    }
    Ok(())
}
