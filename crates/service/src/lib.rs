//! What the three processes do alike: logging, signals, listening, connecting,
//! bearer tokens, health, patience, what the processor can do and their shared
//! command-line options. Refuses everything else: no artifact, no corpus, no tensor.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod args;
pub mod auth;
pub mod channel;
pub mod cpu;
mod device;
mod error;
mod failover;
pub mod health;
pub mod listen;
pub mod patience;
pub mod port_file;
pub mod retry;
pub mod signals;
pub mod surroundings;
pub mod telemetry;
pub mod threads;

pub use args::ServiceArgs;
pub use auth::Token;
pub use channel::ServiceChannel;
pub use device::DeviceChoice;
pub use error::{Result, ServiceError, causes};
pub use tokio_util::sync::CancellationToken;
