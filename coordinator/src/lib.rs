//! Decides which generation of negatives is current, and hands out the work of
//! making the next one.
//!
//! Owns: the pure state machine ([`state`]), its durable log ([`log`]), the one
//! task that drives both ([`driver`]), the gRPC service ([`grpc`]) and the standby
//! that follows the log of another ([`standby`]). Refuses:
//! tensors, indexes, and any object's content (law 7: no native library here).
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod driver;
mod effects;
pub mod follower;
pub mod grpc;
pub mod handle;
pub mod log;
mod narrate;
pub mod options;
pub mod role;
pub mod server;
mod snapshots;
pub mod standby;
pub mod state;
pub mod status;
