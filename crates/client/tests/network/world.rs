//! What all hosts of a simulation share: the store and the prepared run in it, the
//! traps, and the trace of what happened.

use crate::fault::Traps;
use crate::reach::Reach;
use crate::run::prepare;
use object_store::memory::InMemory;
use quarry_artifacts::{CheckpointRef, RunDocument, Store, layout};
use quarry_coordinator::log::Record;
use quarry_coordinator::state::Change;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use turmoil::{Builder, Sim};

/// See the module.
#[derive(Clone)]
pub struct World {
    objects: Arc<InMemory>,
    /// Hosts whose way to the store can be cut.
    cuts: Arc<Mutex<BTreeMap<String, Arc<AtomicBool>>>>,
    pub run: RunDocument,
    /// Checkpoints that lie in the store, by their place: of steps 0, 10, 20 ….
    pub checkpoints: Vec<CheckpointRef>,
    pub traps: Traps,
    trace: Arc<Mutex<Vec<String>>>,
}

impl World {
    /// A run of one shard and two blocks, with `checkpoints` that nobody has announced
    /// yet but the first, and leases of `lease`.
    pub fn prepare(checkpoints: u64, lease: Duration) -> Self {
        let objects = Arc::new(InMemory::new());
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let store = Reach::open(&objects, &Arc::default());
        let (run, checkpoints) = runtime
            .unwrap()
            .block_on(prepare(&store, checkpoints, lease));
        Self {
            objects,
            cuts: Arc::default(),
            run,
            checkpoints,
            traps: Traps::default(),
            trace: Arc::default(),
        }
    }

    /// The store as `host` reaches it.
    pub fn store(&self, host: &str) -> Store {
        let mut cuts = self.cuts.lock().unwrap();
        Reach::open(&self.objects, cuts.entry(host.to_owned()).or_default())
    }

    /// Cuts the way of `host` to the store, or heals it.
    pub fn cut_store(&self, host: &str, cut: bool) {
        let mut cuts = self.cuts.lock().unwrap();
        let way = cuts.entry(host.to_owned()).or_default();
        way.store(cut, Ordering::Relaxed);
    }

    /// Adds a line to the trace.
    pub fn note(&self, line: fmt::Arguments<'_>) {
        let now = turmoil::sim_elapsed().unwrap_or_default().as_millis();
        self.trace.lock().unwrap().push(format!("{now} {line}"));
    }

    pub fn trace(&self) -> Vec<String> {
        self.trace.lock().unwrap().clone()
    }

    /// All records of the log, in order.
    pub async fn records(&self) -> Vec<Record> {
        let store = self.store("observer");
        let mut records = Vec::new();
        for sequence in 1.. {
            let path = layout::log_record(sequence);
            let Some(bytes) = store.get_raw(&path).await.unwrap() else {
                break;
            };
            records.push(serde_json::from_slice(&bytes).unwrap());
        }
        records
    }

    /// How many durable changes are as `which` says.
    pub async fn count(&self, which: impl Fn(&Change) -> bool) -> usize {
        let records = self.records().await;
        let changes = records.iter().flat_map(|record| &record.changes);
        changes.filter(|change| which(change)).count()
    }
}

/// A network whose chance is `seed`'s.
pub fn network(seed: u64) -> Builder {
    crate::wire::enter(seed);
    let mut builder = Builder::new();
    builder
        .rng_seed(seed)
        .tick_duration(Duration::from_millis(10))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(60))
        .simulation_duration(Duration::from_secs(3600))
        .tcp_capacity(4096);
    builder
}

/// Runs a simulation to its end.
pub fn play(mut sim: Sim<'_>, world: &World) {
    if let Err(error) = sim.run() {
        let trace = world.trace();
        let last = trace.len().saturating_sub(60);
        panic!("{error}\n{}", trace[last..].join("\n"));
    }
}
