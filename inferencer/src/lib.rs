//! The inferencer: encodes, indexes, searches and mines under leases.
//!
//! Owns: the worker's loop (`worker`), the thread that computes (`engine`), what
//! it keeps between tasks (`workshop`) and one module a kind of task (`tasks`).
//! Refuses: deciding what is to be done, or which generation is current; that is
//! the coordinator's, and only references travel between the two.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod bm25;
mod collection;
mod depot;
mod encoding;
mod engine;
mod error;
mod models;
mod progress;
mod start;
mod tasks;
mod worker;
mod workshop;

pub use args::Args;
pub use depot::Depot;
pub use engine::{Engine, Perform};
pub use error::TaskError;
pub use progress::Progress;
pub use quarry_client::worker::{Acquired, Link};
pub use start::run;
pub use worker::{Ended, Worker, WorkerError};
pub use workshop::Workshop;
