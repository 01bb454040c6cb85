//! Streaming readers, one file a format: records with their place, one at a time.
//!
//! A reader yields every record of a file or an error with its line; it decides nothing. What is dropped and what is
//! refused is the business of [`crate::prepare`].

pub(crate) mod array;
pub(crate) mod beir;
pub(crate) mod dpr;
pub(crate) mod fields;
pub(crate) mod files;
pub(crate) mod lines;
pub(crate) mod msmarco;
pub(crate) mod tevatron;
pub(crate) mod texts;

use crate::{CorpusError, Place};

/// A record and where it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// Where it stands (where it begins, if it spans lines).
    pub place: Place,
    /// The record.
    pub value: T,
}

/// Records one at a time. [`CorpusError::Malformed`] concerns one line, and reading may go on; after any other error
/// the stream ends.
pub type Records<T> = Box<dyn Iterator<Item = Result<Located<T>, CorpusError>> + Send>;
