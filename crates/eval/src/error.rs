//! What can go wrong with evaluation files: each message says what, where and what to do.

use std::path::PathBuf;

/// Errors of reading, writing and evaluating TREC files.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The file could not be opened, read or written.
    #[error("cannot access {path}: {source}; check the path and its permissions")]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// A compressed file that does not decompress.
    #[error(
        "cannot read {path} to its end: {source}; it is truncated or not gzip, so fetch or write it again"
    )]
    Gzip {
        /// The file.
        path: PathBuf,
        /// What the decompressor met.
        source: std::io::Error,
    },
    /// A line does not have the fields its format asks for.
    #[error("{path}:{line}: {problem}; {fix}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
        /// What the line should look like.
        fix: &'static str,
    },
    /// The same document occurs twice for one query.
    #[error("document {document:?} occurs twice for query {query:?}; keep one line for each pair")]
    Duplicate {
        /// The query id.
        query: String,
        /// The document id.
        document: String,
    },
    /// A score that cannot be ordered.
    #[error(
        "the score of document {document:?} for query {query:?} is not a number; write finite scores"
    )]
    NotFinite {
        /// The query id.
        query: String,
        /// The document id.
        document: String,
    },
    /// An id that a white-space separated file cannot hold.
    #[error("the id {id:?} is empty or has white space, which a TREC run cannot hold; rename it")]
    UnwritableId {
        /// The offending query or document id, or tag.
        id: String,
    },
    /// A metric name that is not known.
    #[error(
        "unknown metric {name:?}; use mrr@k, ndcg@k, recall@k, precision@k, success@k, map or map@k with k of at least 1"
    )]
    UnknownMetric {
        /// The name as written.
        name: String,
    },
    /// Too few or unpaired values for a significance test.
    #[error(
        "a paired test needs two lists of one length with at least 2 finite values, not {left} and {right}"
    )]
    Unpaired {
        /// Values of the first system.
        left: usize,
        /// Values of the second system.
        right: usize,
    },
}
