//! Tasks: the units of work a generation is made of, and the lease on one.

use crate::convert::{ConversionError, all, optional, required};
use crate::v1;
use quarry_artifacts::{CheckpointRef, ObjectRef};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A slice of the queries of one split.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Block {
    /// Name of the split, such as `train`.
    pub split: String,
    /// Row of its first query.
    pub first_query: u32,
    /// Number of queries, at least 1.
    pub queries: u32,
}

/// What is to be done, with the objects it is done from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Queries of a block to vectors: one [`crate::Role::QueryEmbeddings`].
    EncodeQueries {
        /// Queries to encode.
        block: Block,
    },
    /// Passages of a shard to vectors: one [`crate::Role::Embeddings`].
    EncodeShard {
        /// Number of the shard in the corpus manifest.
        shard: u32,
    },
    /// A search structure over a partition: one [`crate::Role::Index`].
    BuildPartition {
        /// Number of the partition.
        partition: u32,
        /// Embeddings of its shards, in order.
        embeddings: Vec<ObjectRef>,
    },
    /// The best passages of a partition for each query of a block: one
    /// [`crate::Role::Candidates`].
    SearchBlock {
        /// Queries to search for.
        block: Block,
        /// Number of the partition.
        partition: u32,
        /// Query vectors of the block.
        query_embeddings: Vec<ObjectRef>,
        /// Embeddings of the partition's shards, in order.
        embeddings: Vec<ObjectRef>,
        /// Index of the partition; `None` for exact search.
        index: Option<ObjectRef>,
    },
    /// Candidates of all partitions to filtered negatives: one
    /// [`crate::Role::Negatives`], or run and metrics for the dev block.
    MergeBlock {
        /// Queries to merge.
        block: Block,
        /// Candidates, one object a partition, in order.
        candidates: Vec<ObjectRef>,
        /// Whether this is the dev block.
        evaluate: bool,
    },
    /// BM25 search and filtering of a block, in one task.
    MineSparse {
        /// Queries to search for.
        block: Block,
        /// Whether this is the dev block.
        evaluate: bool,
    },
}

/// One task of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Generation it belongs to.
    pub generation: u64,
    /// Number inside the generation.
    pub number: u32,
    /// The one checkpoint the generation stems from (law 2).
    pub checkpoint: CheckpointRef,
    /// What to do.
    pub work: Work,
}

/// The right to do one task until a deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Unique inside an epoch.
    pub id: u64,
    /// 1 for the first attempt at the task.
    pub attempt: u32,
    /// Fencing number of the coordinator that granted it.
    pub epoch: u64,
    /// Milliseconds it lasts; each heartbeat renews it.
    pub duration_ms: u32,
    /// The task.
    pub task: Task,
}

/// Heartbeats in the time of a lease. They are most of what a large fleet asks of its
/// coordinator, and two are the fewest that bear the loss of one.
const BEATS: u32 = 2;
/// A missed one is made up for in this part of the usual pause.
const HASTE: u32 = 6;
/// The answer to one is waited for during this part of the lease: a lost one (1/2, and
/// 1/4 in vain) leaves the time for the next (after 1/12), and for its answer.
const PATIENCE: u32 = 4;

impl Lease {
    /// How long its holder waits before the next heartbeat, which comes sooner after one
    /// that was `missed`.
    #[must_use]
    pub fn pause(&self, missed: bool) -> Duration {
        let usual = self.part(BEATS);
        if missed { usual / HASTE } else { usual }
    }

    /// How long its holder waits for the answer to a heartbeat.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.part(PATIENCE)
    }

    fn part(&self, parts: u32) -> Duration {
        Duration::from_millis(u64::from(self.duration_ms / parts).max(1))
    }
}

impl Work {
    /// What the task does, in one word or two, for logs and status.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::EncodeQueries { .. } => "encode queries",
            Self::EncodeShard { .. } => "encode shard",
            Self::BuildPartition { .. } => "build partition",
            Self::SearchBlock { .. } => "search block",
            Self::MergeBlock { .. } => "merge block",
            Self::MineSparse { .. } => "mine bm25",
        }
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind())?;
        match self {
            Self::EncodeShard { shard } => write!(f, "{shard}"),
            Self::BuildPartition { partition, .. } => write!(f, "{partition}"),
            Self::EncodeQueries { block }
            | Self::MergeBlock { block, .. }
            | Self::MineSparse { block, .. } => write!(f, "{block}"),
            Self::SearchBlock {
                block, partition, ..
            } => write!(f, "{block} in partition {partition}"),
        }
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = u64::from(self.first_query) + u64::from(self.queries);
        write!(f, "{}[{}..{end}]", self.split, self.first_query)
    }
}

impl TryFrom<v1::Block> for Block {
    type Error = ConversionError;

    fn try_from(wire: v1::Block) -> Result<Self, ConversionError> {
        let refuse = |field, reason: &str| Err(ConversionError::new("Block", field, reason));
        if wire.split.is_empty() {
            return refuse("split", "is empty; name the split");
        }
        if wire.queries == 0 {
            return refuse("queries", "is 0; a block holds at least one query");
        }
        if wire.first_query.checked_add(wire.queries).is_none() {
            return refuse("queries", "reaches beyond the last possible row");
        }
        Ok(Self {
            split: wire.split,
            first_query: wire.first_query,
            queries: wire.queries,
        })
    }
}

impl From<Block> for v1::Block {
    fn from(block: Block) -> Self {
        Self {
            split: block.split,
            first_query: block.first_query,
            queries: block.queries,
        }
    }
}

fn block_of(block: Option<v1::Block>, message: &'static str) -> Result<Block, ConversionError> {
    required(block, message, "block")?.try_into()
}

impl TryFrom<v1::task::Work> for Work {
    type Error = ConversionError;

    fn try_from(wire: v1::task::Work) -> Result<Self, ConversionError> {
        use v1::task::Work as Wire;
        Ok(match wire {
            Wire::EncodeQueries(w) => Self::EncodeQueries {
                block: block_of(w.block, "EncodeQueries")?,
            },
            Wire::EncodeShard(w) => Self::EncodeShard { shard: w.shard },
            Wire::BuildPartition(w) => Self::BuildPartition {
                partition: w.partition,
                embeddings: all(w.embeddings)?,
            },
            Wire::SearchBlock(w) => Self::SearchBlock {
                block: block_of(w.block, "SearchBlock")?,
                partition: w.partition,
                query_embeddings: all(w.query_embeddings)?,
                embeddings: all(w.embeddings)?,
                index: optional(w.index)?,
            },
            Wire::MergeBlock(w) => Self::MergeBlock {
                block: block_of(w.block, "MergeBlock")?,
                candidates: all(w.candidates)?,
                evaluate: w.evaluate,
            },
            Wire::MineSparse(w) => Self::MineSparse {
                block: block_of(w.block, "MineSparse")?,
                evaluate: w.evaluate,
            },
        })
    }
}

fn wires(objects: Vec<ObjectRef>) -> Vec<v1::ObjectRef> {
    objects.into_iter().map(Into::into).collect()
}

impl From<Work> for v1::task::Work {
    fn from(work: Work) -> Self {
        match work {
            Work::EncodeQueries { block } => Self::EncodeQueries(v1::EncodeQueries {
                block: Some(block.into()),
            }),
            Work::EncodeShard { shard } => Self::EncodeShard(v1::EncodeShard { shard }),
            Work::BuildPartition {
                partition,
                embeddings,
            } => Self::BuildPartition(v1::BuildPartition {
                partition,
                embeddings: wires(embeddings),
            }),
            Work::SearchBlock {
                block,
                partition,
                query_embeddings,
                embeddings,
                index,
            } => Self::SearchBlock(v1::SearchBlock {
                block: Some(block.into()),
                partition,
                query_embeddings: wires(query_embeddings),
                embeddings: wires(embeddings),
                index: index.map(Into::into),
            }),
            Work::MergeBlock {
                block,
                candidates,
                evaluate,
            } => Self::MergeBlock(v1::MergeBlock {
                block: Some(block.into()),
                candidates: wires(candidates),
                evaluate,
            }),
            Work::MineSparse { block, evaluate } => Self::MineSparse(v1::MineSparse {
                block: Some(block.into()),
                evaluate,
            }),
        }
    }
}

impl TryFrom<v1::Task> for Task {
    type Error = ConversionError;

    fn try_from(wire: v1::Task) -> Result<Self, ConversionError> {
        Ok(Self {
            generation: wire.generation,
            number: wire.number,
            checkpoint: required(wire.checkpoint, "Task", "checkpoint")?.try_into()?,
            work: required(wire.work, "Task", "work")?.try_into()?,
        })
    }
}

impl From<Task> for v1::Task {
    fn from(task: Task) -> Self {
        Self {
            generation: task.generation,
            number: task.number,
            checkpoint: Some(task.checkpoint.into()),
            work: Some(task.work.into()),
        }
    }
}

impl TryFrom<v1::Lease> for Lease {
    type Error = ConversionError;

    fn try_from(wire: v1::Lease) -> Result<Self, ConversionError> {
        if wire.duration_ms == 0 {
            let reason = "is 0; a lease lasts at least a millisecond";
            return Err(ConversionError::new("Lease", "duration_ms", reason));
        }
        Ok(Self {
            id: wire.id,
            attempt: wire.attempt,
            epoch: wire.epoch,
            duration_ms: wire.duration_ms,
            task: required(wire.task, "Lease", "task")?.try_into()?,
        })
    }
}

impl From<Lease> for v1::Lease {
    fn from(lease: Lease) -> Self {
        Self {
            id: lease.id,
            attempt: lease.attempt,
            epoch: lease.epoch,
            duration_ms: lease.duration_ms,
            task: Some(lease.task.into()),
        }
    }
}
