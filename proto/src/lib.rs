//! The wire between trainer, inferencers, coordinator and tools: generated
//! code and the checked way from it to domain types.
//!
//! Owns: `quarry.v1`, the vocabulary of tasks and leases, and every conversion
//! between the two. Refuses: decisions, I/O, anything that is not a message.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod convert;
mod output;
mod reference;
mod task;

pub use convert::ConversionError;
pub use output::{Role, TaskOutput};
pub use task::{Block, Lease, Task, Work};

/// Largest message either side takes, in bytes. A lease lists every shard of a
/// partition, which gRPC's default of 4 MiB may not hold: servers and clients
/// of [`v1`] raise it to this.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Generated from `quarry/v1/quarry.proto`, documented there.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("quarry.v1");
}
