//! `[mining]`: which passages become hard negatives.

use serde::{Deserialize, Serialize};

/// `[mining]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mining {
    /// Candidates searched for each query (top k).
    pub depth: usize,
    /// Negatives kept for each query after all filters, hardest first.
    pub keep: usize,
    /// Positive-aware filter (NV-Retriever, TopK-PercPos): drop a candidate that
    /// scores above this share of the query's weakest positive; 0 is off.
    pub max_positive_ratio: f32,
    /// The same filter for BM25 generations, whose scores have another scale.
    pub sparse_max_positive_ratio: f32,
    /// How the trainer draws from the kept negatives.
    pub draw: Draw,
}

impl Default for Mining {
    fn default() -> Self {
        Self {
            depth: 200,
            keep: 100,
            max_positive_ratio: 0.95,
            sparse_max_positive_ratio: 0.0,
            draw: Draw::Uniform,
        }
    }
}

/// How the trainer draws a query's negatives from its mined list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Draw {
    /// Uniformly, without replacement, from the kept list (ANCE).
    Uniform,
    /// Always the hardest.
    Top,
}
