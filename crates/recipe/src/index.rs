//! `[index]`: the search structure of a generation.

use serde::{Deserialize, Serialize};

/// `[index]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Index {
    /// `exact`, or a faiss factory string such as `IVF4096,Flat` or `HNSW32`.
    pub kind: String,
    /// Passages in a partition, the unit of an index and of a search: what one
    /// worker's memory holds. Rounded up to whole shards.
    pub partition_passages: usize,
    /// Inverted lists visited by a search (IVF kinds).
    pub nprobe: usize,
    /// Candidates kept by a graph search (HNSW kinds).
    pub ef_search: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            kind: "exact".to_owned(),
            partition_passages: 4_000_000,
            nprobe: 64,
            ef_search: 256,
        }
    }
}
