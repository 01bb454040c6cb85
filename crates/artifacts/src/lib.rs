//! The artifact store: where every checkpoint, embedding, index and block of
//! negatives lives, and how it gets there.
//!
//! This crate owns digests and object references, the store's layout, creating
//! small objects exactly once, publishing folders with their manifest last, and
//! a bounded local cache. It keeps two laws: nothing is overwritten, and every
//! object's size and hash are verified on read. It refuses to know what the
//! objects mean: corpora, models and indexes belong to their own crates.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod aside;
mod backend;
mod cache;
mod checkpoint;
mod corpus;
mod create;
mod digest;
mod document;
mod download;
mod error;
mod generation;
pub mod layout;
mod object_ref;
mod retention;
mod retry;
mod run;
mod store;
mod upload;
mod versions;

pub use aside::aside;
pub use cache::{Cache, CachedFile};
pub use checkpoint::{
    CheckpointFiles, CheckpointManifest, CheckpointOrigin, CheckpointRef, fetch_checkpoint,
    publish_checkpoint,
};
pub use corpus::{CorpusLocation, fetch_corpus_file, publish_corpus};
pub use create::Created;
pub use digest::Digest;
pub use document::{create_json, read_json};
pub use error::{ArtifactError, Result};
pub use generation::{BlockRef, GenerationKind, GenerationManifest};
pub use object_ref::{ObjectRef, check_path};
pub use retention::delete_folder;
pub use retry::Retry;
pub use run::RunDocument;
pub use store::Store;
pub use versions::{VersionLog, VersionSwap};
