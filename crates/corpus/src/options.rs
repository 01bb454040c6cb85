//! What a caller decides about a preparation, and the tokenizer it brings.

use crate::Format;

pub use quarry_recipe::{Policy, Strictness};

/// Turns texts into token ids; implemented by the model's tokenizer.
pub trait Tokenize: Sync {
    /// The ids of each text without special tokens, at most `max_tokens` of them (the first ones), in input order.
    fn content_ids(&self, texts: &[String], max_tokens: usize) -> Result<Vec<Vec<u32>>, String>;

    /// A digest of everything that decides the ids (sha256 of `tokenizer.json`, in hexadecimal).
    fn digest(&self) -> String;
}

/// How to prepare a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareOptions {
    /// The layout of the input folder.
    pub format: Format,
    /// Rows of a shard; the last may hold fewer.
    pub shard_passages: usize,
    /// Put before each passage's text when it is tokenised (`"passage: "` for E5).
    pub passage_prefix: String,
    /// Put before each query's text when it is tokenised.
    pub query_prefix: String,
    /// Content tokens kept of a passage, prefix included, special tokens not.
    pub passage_tokens: usize,
    /// Content tokens kept of a query, prefix included, special tokens not.
    pub query_tokens: usize,
    /// The splits to prepare; without a `corpus` file (DPR, Tevatron) the corpus is the union of theirs, in this order.
    pub splits: Vec<String>,
    /// What to do with faults.
    pub strictness: Strictness,
}
