//! The record of a prepared corpus: what its files are, and what was left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Format;
use crate::output::hex;

/// One shard file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Its name inside the corpus folder.
    pub file: String,
    /// The corpus row of its first passage.
    pub first_row: u32,
    /// Its passages.
    pub passages: u32,
    /// Its size in bytes.
    pub size: u64,
    /// Its sha256, in hexadecimal.
    pub sha256: String,
    /// Content tokens over all its passages.
    pub tokens: u64,
}

/// The queries file of one split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueriesEntry {
    /// Its name inside the corpus folder.
    pub file: String,
    /// Its queries.
    pub queries: u32,
    /// Relevant (query, passage) pairs: grade 1 or more.
    pub positives: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its sha256, in hexadecimal.
    pub sha256: String,
    /// Content tokens over all its queries.
    pub tokens: u64,
    /// Queries of which tokens were cut off; 0 in a manifest that is older than this count.
    #[serde(default)]
    pub truncated: u64,
}

/// What [`crate::prepare`] wrote. The same input and options give the same manifest, bit for bit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusManifest {
    /// The layout it was read from.
    pub format: Format,
    /// Passages over all shards.
    pub passages: u64,
    /// The shards, by row.
    pub shards: Vec<ShardEntry>,
    /// The query sets, by split.
    pub queries: BTreeMap<String, QueriesEntry>,
    /// [`crate::Tokenize::digest`] of the tokenizer.
    pub tokenizer_digest: String,
    /// What was put before each passage.
    pub passage_prefix: String,
    /// What was put before each query.
    pub query_prefix: String,
    /// Content tokens kept of a passage.
    pub passage_tokens: usize,
    /// Content tokens kept of a query.
    pub query_tokens: usize,
    /// What [`crate::Policy::Drop`] left out, by kind; kinds of which nothing was dropped are absent.
    ///
    /// Keys: `malformed_lines`, `duplicate_passages`, `duplicate_queries`, `empty_passages`, `empty_queries`,
    /// `unknown_passages`, `unknown_queries` (both count judgements), `queries_without_positive`. Without a corpus file
    /// (DPR, Tevatron), `duplicate_passages` counts those that came with another text than the first of their id.
    pub dropped: BTreeMap<String, u64>,
    /// Passages of which tokens were cut off.
    pub truncated_passages: u64,
}

impl CorpusManifest {
    /// The canonical JSON: fields in the order of this type, maps by key, no white space.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .expect("a manifest holds only strings, integers and maps with string keys")
    }

    /// The sha256 of [`Self::to_json`], in hexadecimal: the name of the corpus.
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.to_json().as_bytes()))
    }
}
