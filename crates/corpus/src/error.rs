//! The errors of this crate: one sentence each, saying what, where and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A line of an input file; lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file as it was opened.
    pub file: Arc<Path>,
    /// The line, from 1. An element of a JSON array is known by the line it begins on.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of {}", self.line, self.file.display())
    }
}

/// What can go wrong between the files of a collection and its prepared tables.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}; check the path, its permissions and the free space", path.display())]
    Io {
        /// A verb: `open`, `read`, `write`, ….
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A compressed file that does not decompress.
    #[error("cannot read {} to its end: {source}; it is truncated or not gzip, so fetch or compress it again", path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// What the decompressor met.
        source: io::Error,
    },
    /// A compressed file whose name does not say so.
    #[error("{} is compressed with gzip, but its name does not end in .gz; rename it to {}.gz", path.display(), path.display())]
    UnnamedGzip {
        /// The file.
        path: PathBuf,
    },
    /// A file that the format needs is not there.
    #[error("{what} is missing in {}: expected {expected}; check the folder and the format", dir.display())]
    Missing {
        /// What the file would hold.
        what: String,
        /// The folder that was searched.
        dir: PathBuf,
        /// The names that would do.
        expected: String,
    },
    /// A file lies there twice, plain and compressed.
    #[error("both {} and its .gz are present; remove one so that it is clear which counts", path.display())]
    Ambiguous {
        /// The plain one.
        path: PathBuf,
    },
    /// A line that does not parse.
    #[error("{place} is malformed: {reason}; correct it")]
    Malformed {
        /// Where.
        place: Place,
        /// What is wrong with it.
        reason: String,
    },
    /// A file whose rest cannot be read for a fault inside it.
    #[error(
        "{place} ends the reading: {reason}; the rest of the file cannot be trusted, so correct the file"
    )]
    Broken {
        /// Where.
        place: Place,
        /// What is wrong.
        reason: String,
    },
    /// An id that was seen before.
    #[error("{again} repeats the {what} id {id:?} of {first}; make it unique")]
    Duplicate {
        /// `passage` or `query`.
        what: &'static str,
        /// The id.
        id: String,
        /// Where it was seen first.
        first: Place,
        /// Where it was seen again.
        again: Place,
    },
    /// Records carry one id with two texts.
    #[error(
        "{again} gives the {what} {id:?} another text than {first}; give both the same, or make the ids unique"
    )]
    OtherText {
        /// `passage` or `query`.
        what: &'static str,
        /// The id.
        id: String,
        /// Where it was seen first.
        first: Place,
        /// Where another text stands.
        again: Place,
    },
    /// A judgement about a passage or query that does not exist.
    #[error("{place} names the unknown {what} {id:?}; correct the id")]
    UnknownId {
        /// `passage` or `query`.
        what: &'static str,
        /// The id.
        id: String,
        /// The line of the judgement.
        place: Place,
    },
    /// A passage or query without text.
    #[error("{place} has no text for the {what} {id:?}; give it one")]
    EmptyText {
        /// `passage` or `query`.
        what: &'static str,
        /// The id.
        id: String,
        /// Where.
        place: Place,
    },
    /// A judged query of which no passage is relevant.
    #[error(
        "the query {id:?} at {place} has no positive passage in split {split:?}; judge one with a grade of 1 or more"
    )]
    NoPositive {
        /// The query's id.
        id: String,
        /// The split.
        split: String,
        /// Its first judgement, or its record.
        place: Place,
    },
    /// Nothing is left of a table.
    #[error("{what} in {} holds nothing to keep; check the files and the policies", dir.display())]
    Nothing {
        /// `the corpus` or a split.
        what: String,
        /// The folder.
        dir: PathBuf,
    },
    /// The input changed while it was read.
    #[error("{} changed between two readings: {reason}; prepare it again when nothing writes to it", dir.display())]
    Changed {
        /// The folder.
        dir: PathBuf,
        /// What differed.
        reason: String,
    },
    /// A prepared file that is not what it should be.
    #[error("{} is not a valid {kind}: {}; fetch or prepare it again", path.display(), .reason.trim().replace(char::is_control, " "))]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What it should be: `corpus shard`, ….
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Rows that cannot be written as a table.
    #[error("cannot write {}: {reason}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Options that make no sense.
    #[error("the option {key} is wrong: {reason}")]
    Option {
        /// The field of [`crate::PrepareOptions`].
        key: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The tokenizer refused.
    #[error("the tokenizer failed on {what}: {}; check tokenizer.json of the model", .reason.trim().replace(char::is_control, " "))]
    Tokenizer {
        /// Which texts.
        what: String,
        /// Its message.
        reason: String,
    },
}

impl CorpusError {
    /// The field of [`crate::Strictness`] under which a preparation leaves out what is at fault here, and counts it. A
    /// message does not offer it, because each program has a way of its own to set it.
    pub fn policy(&self) -> Option<&'static str> {
        match self {
            CorpusError::Malformed { .. } => Some("malformed"),
            CorpusError::Duplicate { .. } | CorpusError::OtherText { .. } => Some("duplicate_id"),
            CorpusError::UnknownId { .. } => Some("unknown_id"),
            CorpusError::EmptyText { .. } => Some("empty_text"),
            CorpusError::NoPositive { .. } => Some("no_positive"),
            _ => None,
        }
    }

    /// A failure while an input file was read: the system's, or the decompressor's, which has no system's number.
    pub(crate) fn reading(path: &Path) -> impl FnOnce(io::Error) -> CorpusError {
        move |source| {
            let path = path.to_path_buf();
            let compressed = path.extension().is_some_and(|end| end == "gz");
            match source.raw_os_error() {
                None if compressed => CorpusError::Gzip { path, source },
                _ => CorpusError::Io {
                    action: "read",
                    path,
                    source,
                },
            }
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CorpusError {
        move |source| CorpusError::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}
