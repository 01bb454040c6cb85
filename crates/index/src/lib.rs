//! Search over the corpus: dense (exact on torch, approximate by faiss) and sparse (BM25 by tantivy).
//!
//! Owns: indexes, their order (score descending, then row ascending, everywhere), merging, fusion and the filters
//! that turn search results into negatives. All faiss `unsafe` lives in the module `faiss`. Refuses: encoding text into
//! vectors, storing objects, metrics.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod exact;
mod faiss;
pub mod fusion;
mod hit;
mod keys;
mod merge;
mod mining;
mod part;
mod sparse;
mod stretch;

pub use error::IndexError;
pub use exact::ExactIndex;
pub use faiss::{FaissIndex, IndexSpec};
pub use hit::{Hit, Search};
pub use merge::merge;
pub use mining::{Dropped, MiningFilter, mine};
pub use part::{HalfRows, Part, score_rows};
pub use sparse::{Language, SparseIndex};
