//! `[data]`: the collection, its splits, and how strictly it is read.

use serde::{Deserialize, Serialize};

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// `auto`, `beir`, `msmarco`, `dpr` or `tevatron`.
    pub format: String,
    /// Split whose queries are trained on.
    pub train: String,
    /// Split that scores every generation; must not overlap with `test`.
    pub dev: String,
    /// Split that scores the final model only; empty for none.
    pub test: String,
    /// Language of the BM25 analyser: `auto`, `english`, `chinese`, `plain`, …
    pub language: String,
    /// Passages in a shard, the unit of encoding and of a lease.
    pub shard_passages: usize,
    /// Queries in a block, the unit of searching and mining.
    pub block_queries: usize,
    /// What to do with bad input, kind by kind.
    pub strictness: Strictness,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            format: "auto".to_owned(),
            train: "train".to_owned(),
            dev: "dev".to_owned(),
            test: "test".to_owned(),
            language: "auto".to_owned(),
            shard_passages: 4096,
            block_queries: 8192,
            strictness: Strictness::default(),
        }
    }
}

/// `[data.strictness]`: each kind of bad input is refused unless relaxed here.
/// What is dropped is counted in the corpus manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Strictness {
    /// A passage or query with no text.
    pub empty_text: Policy,
    /// A judgement that names an unknown query or passage.
    pub unknown_id: Policy,
    /// A query of a split without a relevant passage.
    pub no_positive: Policy,
    /// A line that cannot be parsed.
    pub malformed: Policy,
    /// A second passage or query with an id already seen; where the corpus is what the records carry (DPR, Tevatron),
    /// only one with another text.
    pub duplicate_id: Policy,
}

/// What to do with one kind of bad input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Stop with the file, the line and the reason.
    #[default]
    Refuse,
    /// Leave the item out and count it.
    Drop,
}
