//! The books of the simulation: every object that was written, every record, and
//! every claim a coordinator made to somebody.
//!
//! Each entry is held against the laws at once; see [`crate::ledger`] and
//! [`crate::deletions`].

use crate::deletions::check_deletion;
use crate::ledger::Ledger;
use crate::objects::Objects;
use crate::world::{World, lock};
use bytes::Bytes;
use quarry_artifacts::{CheckpointRef, layout};
use quarry_coordinator::log::Record;
use quarry_coordinator::state::{Run, Settings, State, check};
use quarry_proto::{TaskOutput, v1};
use serde::Deserialize;
use std::sync::{Arc, Mutex};

/// See the module.
pub struct Audit {
    world: Arc<World>,
    books: Mutex<Books>,
}

/// Of a snapshot, what it is of.
#[derive(Deserialize)]
struct Snapshot {
    run: Run,
}

/// What is known from above.
pub struct Books {
    pub objects: Objects,
    pub ledger: Ledger,
}

impl Audit {
    pub fn new(world: &Arc<World>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            books: Mutex::new(Books {
                objects: Objects::default(),
                ledger: Ledger::new(settings),
            }),
        })
    }

    /// A look at the books.
    pub fn read<T>(&self, look: impl FnOnce(&Books) -> T) -> T {
        look(&lock(&self.books))
    }

    /// An object appeared: `landed` of the `whole` bytes that were sent.
    pub fn written(&self, path: &str, landed: Bytes, whole: usize) {
        let mut books = lock(&self.books);
        let books = &mut *books;
        self.world.require(books.objects.add(path, landed, whole));
        let bytes = books.objects.bytes(path).unwrap_or_default();
        if let Some(sequence) = layout::snapshot_sequence(path) {
            let snapshot: Snapshot = serde_json::from_slice(&bytes).unwrap();
            books.ledger.counts.snapshots += 1;
            let kept = books.ledger.check_snapshot(sequence, &snapshot.run);
            return self.world.require(kept);
        }
        let Some(sequence) = layout::log_sequence(path) else {
            return;
        };
        let kept = match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) => {
                for change in &record.changes {
                    self.world.note(format_args!("  {change:?}"));
                }
                books.ledger.enter(sequence, &record, &books.objects)
            }
            Err(error) => Err(format!("record {sequence} cannot be read: {error}")),
        };
        self.world.require(kept);
    }

    /// A record found its number taken.
    pub fn fenced(&self) {
        lock(&self.books).ledger.counts.fenced += 1;
    }

    /// An object was deleted.
    pub fn deleted(&self, path: &str) {
        let mut books = lock(&self.books);
        self.world.require(check_deletion(&books, path));
        books.objects.remove(path);
    }

    /// A coordinator was looked into: its own invariants, and what it holds true.
    pub fn looked_into(&self, name: &str, state: &State) {
        self.world.require(check(state));
        let kept = self.read(|books| books.ledger.check_belief(name, &state.run));
        self.world.require(kept);
    }

    /// The size of `path` if all that was sent had landed.
    pub fn whole_size(&self, path: &str) -> Option<u64> {
        self.read(|books| books.objects.whole_size(path))
    }

    /// The newest checkpoint in the log.
    pub fn newest_checkpoint(&self) -> Option<CheckpointRef> {
        self.read(|books| books.ledger.newest().cloned())
    }

    /// A completion was answered as accepted.
    pub fn accepted(&self, request: &v1::CompleteTaskRequest) {
        let output = request.output.clone().map(TaskOutput::try_from);
        let Some(Ok(output)) = output else {
            return self
                .world
                .violate("an output that cannot be read was accepted");
        };
        let task = (request.generation, request.task);
        let kept = self.read(|b| b.ledger.check_accepted(task, &output));
        self.world.require(kept);
    }

    /// A checkpoint was acknowledged.
    pub fn acknowledged_checkpoint(&self, checkpoint: &v1::CheckpointRef) {
        let known = self.read(|b| b.ledger.checkpoints.contains_key(&checkpoint.manifest));
        let manifest = &checkpoint.manifest;
        self.world
            .require(durable(known, || format!("checkpoint {manifest}")));
    }

    /// A swap was acknowledged.
    pub fn acknowledged_swap(&self, swap: &v1::ReportSwapRequest) {
        let line = (swap.step, swap.activation, swap.generation);
        let known = self.read(|b| b.ledger.swaps_ever.contains(&line));
        self.world
            .require(durable(known, || format!("swap {line:?}")));
    }

    /// An activation was announced, or a rollback answered with it.
    pub fn announced(&self, activation: u64, generation: u64) {
        let place = usize::try_from(activation).unwrap_or(0).wrapping_sub(1);
        let known = self.read(|b| b.ledger.activations.get(place) == Some(&generation));
        let what = || format!("activation {activation} of generation {generation}");
        self.world.require(durable(known, what));
    }
}

fn durable(known: bool, what: impl Fn() -> String) -> Result<(), String> {
    known.then_some(()).ok_or_else(|| {
        format!(
            "durability: {} was answered, but the log does not have it",
            what()
        )
    })
}
