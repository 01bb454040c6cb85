//! Whole runs with real processes, for tests: a tiny collection cut from
//! squad-mini, a tiny BERT with random weights, `quarry run` on them, and the
//! means to look at, kill and resume what it started. For tests of one program
//! alone also a collection of made-up words, a store with a run in it, and a stub
//! of the coordinator.
//!
//! Owns: nothing of the product. Refuses: to know how the programs work inside;
//! it sees what a user sees (exit codes, output, logs, processes and the store)
//! and speaks what the programs speak (`quarry.v1`). Links no native library.
//!
//! Every function panics with one sentence when something is not as it must be:
//! the caller is a test. Linux only, because it finds processes in `/proc`.
#![allow(clippy::unwrap_used)] // Test support: its panics are the test's failures.

pub mod chaos;
mod collection;
pub mod coordinator;
mod finished;
mod losses;
mod member;
mod model;
mod processes;
mod programs;
mod published;
mod running;
mod site;
mod store;
mod words;

pub use collection::{SIZES, Sizes, write_collection};
pub use finished::Finished;
pub use losses::{Losses, StepLine};
pub use member::{LEADS, Member};
pub use model::{write_model, write_plain_model};
pub use processes::{Process, Signal, processes_naming, signal};
pub use programs::program;
pub use published::PublishedRun;
pub use running::Running;
pub use site::Site;
pub use store::RunStore;
pub use words::{WordCollection, WordSplit};

use std::time::{Duration, Instant};

/// Waits until `look` gives something, looking every few milliseconds.
///
/// # Panics
/// If nothing came within `limit`; the message says `what` was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            started.elapsed() < limit,
            "waited {} s in vain for {what}",
            limit.as_secs()
        );
        std::thread::sleep(Duration::from_millis(3));
    }
}
