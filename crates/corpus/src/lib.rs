//! Passages, queries and judgements: from the files of a collection to memory-mapped, tokenised tables.
//!
//! Owns the readers (BEIR, MS MARCO, DPR, Tevatron), [`prepare`], and the tables of a run that are rows of a
//! corpus: shards, query sets, candidates, negatives, embeddings. Every table is published under its final name only
//! when it is complete, and every `open` checks what it maps.
//!
//! Refuses: tokenising itself (see [`Tokenize`]), metrics, object stores, and any guess at broken input: a fault is an
//! error with file and line, or a counted drop where [`Strictness`] allows it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod candidates;
mod corpus;
mod decode;
mod embeddings;
mod error;
mod format;
mod manifest;
mod mapped;
mod options;
mod output;
mod passage;
mod prepare;
mod query_set;
mod reader;
mod shard;
mod table;
mod twins;

pub use candidates::{CandidateList, Candidates, NegativesBlock};
pub use corpus::Corpus;
pub use embeddings::Embeddings;
pub use error::{CorpusError, Place};
pub use format::Format;
pub use manifest::{CorpusManifest, QueriesEntry, ShardEntry};
pub use options::{Policy, PrepareOptions, Strictness, Tokenize};
pub use output::Written;
pub use passage::{Judgement, Passage, Query, text_hash};
pub use prepare::{PrepareProgress, Stage, prepare};
pub use query_set::QuerySet;
pub use reader::beir::read_passages;
pub use reader::texts::read_texts;
pub use reader::{Located, Records};
pub use shard::Shard;
