//! What a process takes from the world around it: connections, and chance.
//!
//! Owns the one place where a simulation puts its own network and its own seed in
//! their stead, so that everything built on channels and pauses runs there as it
//! is. Refuses: time, which the runtime simulates itself.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::OnceLock;

use tonic::transport::{Channel, Endpoint, Error};

/// A connection in the making.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Channel, Error>> + Send>>;

/// What a simulation puts in place of the world.
#[derive(Debug, Clone, Copy)]
pub struct Simulation {
    /// Connects at once.
    pub connect: fn(Endpoint) -> Connecting,
    /// Connects when the channel is first used.
    pub connect_lazy: fn(Endpoint) -> Channel,
    /// Seed of what the process calls chance.
    pub seed: fn() -> u64,
}

static SIMULATION: OnceLock<Simulation> = OnceLock::new();

/// Puts `simulation` in place of the world, for the rest of this process's life; the
/// first one stays. For tests: a process that is real never calls this.
pub fn simulate(simulation: Simulation) {
    SIMULATION.get_or_init(|| simulation);
}

pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Channel, Error> {
    match SIMULATION.get() {
        Some(simulation) => (simulation.connect)(endpoint.clone()).await,
        None => endpoint.connect().await,
    }
}

pub(crate) fn connect_lazy(endpoint: &Endpoint) -> Channel {
    match SIMULATION.get() {
        Some(simulation) => (simulation.connect_lazy)(endpoint.clone()),
        None => endpoint.connect_lazy(),
    }
}

/// A number that other processes do not have. Process ids will not do: every
/// container has the same.
pub(crate) fn seed() -> u64 {
    match SIMULATION.get() {
        Some(simulation) => (simulation.seed)(),
        None => RandomState::new().hash_one(std::process::id()),
    }
}
