//! The coordinator as its callers see it: trainer, workers and tools.
//!
//! Owns: deadlines of calls, patience with a coordinator that is away, streams
//! resumed after every break, and the conversion to domain types. A room of its own
//! because what runs over the network must be testable without libtorch. Refuses:
//! deciding what to do with an answer, and bulk data.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod absence;
mod activation;
mod feed;
mod heartbeats;
pub mod outbox;
pub mod overview;
pub mod trainer;
pub mod worker;

pub use activation::Activation;
pub use feed::follow;
pub use heartbeats::Heartbeats;

use quarry_proto::v1::coordinator_client::CoordinatorClient;
use std::time::Duration;

/// Client of the coordinator's service over any authenticated channel.
pub type Client = CoordinatorClient<quarry_service::ServiceChannel>;

/// A call without an answer after this long has failed.
const DEADLINE: Duration = Duration::from_secs(10);
