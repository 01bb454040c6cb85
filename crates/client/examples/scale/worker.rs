//! An inferencer that sleeps where it should compute.

use anyhow::Result;
use quarry_artifacts::{Store, layout};
use quarry_client::Heartbeats;
use quarry_client::worker::{Acquired, Link};
use quarry_proto::{Lease, Role, Task, TaskOutput, Work};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lengths of tasks: between half and one and a half of the mean, a function of seed,
/// worker and how many came before.
#[derive(Debug)]
pub struct Pace {
    seed: u64,
    mean_ms: AtomicU64,
}

impl Pace {
    pub fn new(seed: u64, mean_ms: u64) -> Self {
        Self {
            seed,
            mean_ms: AtomicU64::new(mean_ms),
        }
    }

    fn length(&self, worker: u64, count: u64) -> Duration {
        let mean = self.mean_ms.load(Ordering::Relaxed);
        let drawn = mixed(self.seed ^ worker.rotate_left(20) ^ count.rotate_left(40));
        Duration::from_micros(mean * 500 + drawn % (mean * 1000).max(1))
    }
}

/// The finaliser of splitmix64 (Steele et al. 2014).
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What all workers share.
pub struct Shared {
    store: Store,
    pace: Pace,
    /// Completed tasks of generation 1.
    done: AtomicU64,
    samples: Mutex<Samples>,
}

/// Milliseconds from a task done to the next one had, where there was one to be had, and
/// until a completion was answered; when the last one was.
type Samples = (Vec<f64>, Vec<f64>, Option<Instant>);

impl Shared {
    pub fn new(store: Store, pace: Pace) -> Self {
        Self {
            store,
            pace,
            done: AtomicU64::new(0),
            samples: Mutex::default(),
        }
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub fn slow_down(&self, mean_ms: u64) {
        self.pace.mean_ms.store(mean_ms, Ordering::Relaxed);
    }

    pub fn take_samples(&self) -> Samples {
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes how long a worker was idle before a task, if there was no reason for it, and
    /// how long it waited for the answer to the completion.
    fn note(&self, idle: Option<Duration>, answered: Duration) {
        self.done.fetch_add(1, Ordering::Relaxed);
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.0.extend(idle.map(ms));
        samples.1.push(ms(answered));
        samples.2 = Some(Instant::now());
    }
}

/// Works until the process ends.
pub async fn work(shared: Arc<Shared>, link: Link, worker: u64) {
    let mut count = 0;
    let mut next = None;
    // When the task before was done, if it was a shard, so that another was ready.
    let mut idle_since = None;
    loop {
        let lease = match next.take() {
            Some(lease) => lease,
            None => match link.acquire().await {
                Ok(Acquired::Lease(lease)) => lease,
                Ok(Acquired::Nothing) => continue,
                Ok(Acquired::RunFinished) => return,
                Err(error) => return eprintln!("scale: worker {worker} was refused: {error}"),
            },
        };
        let of_shard = matches!(lease.task.work, Work::EncodeShard { .. });
        let idle = idle_since.filter(|_| of_shard);
        let idle = idle.map(|since: Instant| since.elapsed());
        count += 1;
        let length = shared.pace.length(worker, count);
        match perform(&shared, &link, &lease, length, idle).await {
            Ok((finished, lease)) => (idle_since, next) = (of_shard.then_some(finished), lease),
            Err(error) => return eprintln!("scale: worker {worker} failed: {error:#}"),
        }
    }
}

/// One task as the worker's loop of an inferencer does it.
async fn perform(
    shared: &Shared,
    link: &Link,
    lease: &Lease,
    length: Duration,
    idle: Option<Duration>,
) -> Result<(Instant, Option<Box<Lease>>)> {
    let heartbeats = Heartbeats::start(link.clone(), lease.clone(), || 0.5, || {});
    tokio::time::sleep(length).await;
    drop(heartbeats);
    let output = make(&shared.store, &lease.task).await?;
    let finished = Instant::now();
    let completed = link.complete(lease, &output, true).await?;
    if completed.accepted && lease.task.generation == 1 {
        shared.note(idle, finished.elapsed());
    }
    Ok((finished, completed.next))
}

/// Objects of a few bytes under the names that an inferencer gives.
async fn make(store: &Store, task: &Task) -> Result<TaskOutput> {
    let (folder, roles): (&str, &[Role]) = match &task.work {
        Work::EncodeQueries { .. } => ("embeddings", &[Role::QueryEmbeddings]),
        Work::EncodeShard { .. } => ("embeddings", &[Role::Embeddings]),
        Work::BuildPartition { .. } => ("index", &[Role::Index]),
        Work::SearchBlock { .. } => ("candidates", &[Role::Candidates]),
        Work::MergeBlock { evaluate: true, .. } | Work::MineSparse { evaluate: true, .. } => {
            ("runs", &[Role::Run, Role::Metrics])
        }
        Work::MergeBlock { .. } | Work::MineSparse { .. } => ("negatives", &[Role::Negatives]),
    };
    let folder = format!("{}/{folder}", layout::generation_folder(task.generation));
    let mut output = TaskOutput::default();
    for role in roles {
        let bytes = format!("{role:?} of task {}", task.number).into();
        let stem = format!("task-{:05}", task.number);
        let object = store.put_content(&folder, &stem, "bin", bytes).await?;
        output.outputs.push((*role, object));
    }
    output.counts.insert("seen".to_owned(), 4096);
    if roles[0] == Role::Run {
        output.metrics.insert("mrr@10".to_owned(), 0.3);
    }
    Ok(output)
}
