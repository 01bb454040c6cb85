//! What can go wrong with an index: each message says what, where and what to do.

use std::path::PathBuf;

/// Errors of building, reading and searching indexes.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Vectors of another dimension than the index.
    #[error(
        "{values} values are not rows of {dim} dimensions; search with vectors of the encoder that made the index"
    )]
    Dimension {
        /// How many values were given.
        values: usize,
        /// Dimension of the index.
        dim: usize,
    },
    /// A vector with a NaN or an infinity.
    #[error("vector {row} of the {what} is not finite; check the checkpoint that encoded it")]
    NotFinite {
        /// Queries or rows.
        what: &'static str,
        /// Position of the vector.
        row: usize,
    },
    /// Nothing to index.
    #[error("there is nothing to index; give at least one row")]
    Empty,
    /// Parts whose rows overlap, or are not consecutive where they must be.
    #[error("the part from row {first_row} {problem}; give each row once and in order")]
    Parts {
        /// First row of the offending part.
        first_row: u32,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A faiss factory string that cannot be used.
    #[error("the index factory {factory:?} cannot be used: {reason}")]
    Factory {
        /// The factory string.
        factory: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// Too few rows to train the index.
    #[error(
        "{factory:?} needs at least {needed} rows to train and has {rows}; use fewer lists or Flat"
    )]
    TooFewRows {
        /// The factory string.
        factory: String,
        /// Rows at hand.
        rows: usize,
        /// Rows needed.
        needed: usize,
    },
    /// faiss refused.
    #[error("faiss could not {what}: {reason}")]
    Faiss {
        /// What was tried.
        what: String,
        /// faiss's own words.
        reason: String,
    },
    /// torch refused.
    #[error("torch could not search: {0}")]
    Torch(#[from] tch::TchError),
    /// tantivy refused.
    #[error("the text index failed: {0}")]
    Tantivy(#[from] tantivy::TantivyError),
    /// A file could not be read or written.
    #[error("cannot access {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// An index file that is not what it should be.
    #[error("{path} is no usable index: {reason}; build it again")]
    Corrupt {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The place for a new index is taken.
    #[error("{path} exists already; an index is never overwritten, choose another folder")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// An unknown language name.
    #[error("unknown language {name:?}; use one of {known}")]
    Language {
        /// The name as written.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Candidates that cannot be filtered.
    #[error("the candidates of query {query} cannot be filtered: {reason}")]
    Candidates {
        /// The query's row.
        query: u32,
        /// What is wrong with them.
        reason: &'static str,
    },
}

impl IndexError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> IndexError {
        let path = path.into();
        move |source| IndexError::Io { path, source }
    }
}
