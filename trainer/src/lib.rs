//! The trainer: learns a dual encoder on hard negatives that others keep fresh.
//!
//! Owns: batches as pure functions of (seed, step, generation), the step, the
//! optimizers, checkpoints and resuming, and the switch to a newer generation
//! between two steps. Refuses: mining, indexes, and deciding which generation is
//! current, which is the coordinator's.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod batches;
pub mod checkpoint;
pub mod dataset;
pub mod feed;
mod follow;
pub mod guard;
pub mod hardware;
pub mod loader;
pub mod losses;
pub mod model;
pub mod negatives;
mod notes;
pub mod optimizer;
pub mod options;
pub mod order;
pub mod pace;
pub mod random;
pub mod resume;
pub mod run;
pub mod schedule;
pub mod script;
pub mod state;
pub mod step;
pub mod swap;
pub mod training;

pub use quarry_client::{outbox, trainer as link};
