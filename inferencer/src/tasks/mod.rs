//! One module a kind of task. Each turns verified inputs into published outputs
//! and touches nothing else, so a task can be stopped, repeated or done twice.

pub(crate) mod build_partition;
pub(crate) mod encode_queries;
pub(crate) mod encode_shard;
mod evaluation;
pub(crate) mod merge_block;
pub(crate) mod mine_sparse;
mod negatives;
mod partition;
pub(crate) mod search_block;

use quarry_artifacts::ObjectRef;
use quarry_proto::{Block, Role, TaskOutput};

/// The output of a task that makes one object.
fn one(role: Role, object: ObjectRef) -> TaskOutput {
    TaskOutput {
        outputs: vec![(role, object)],
        ..TaskOutput::default()
    }
}

/// Name of a block inside object names; sorts as the blocks do.
fn stem(block: &Block) -> String {
    format!("{}-{:08}", block.split, block.first_query)
}
