//! Processes: things that are killed, freeze, are cut off and have clocks of
//! their own.

use crate::world::{World, lock};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until};

/// What a process may be cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Store,
    Network,
}

/// One process, from its start to its end.
pub struct Process {
    /// Never used again, not even by its successor.
    pub name: String,
    /// Seconds of the world in a second of its clock.
    rate: f64,
    frozen: Mutex<Instant>,
    cut: Mutex<[Instant; 2]>,
    running: Mutex<Option<AbortHandle>>,
}

impl Process {
    pub fn new(world: &World, name: String) -> Arc<Self> {
        let now = Instant::now();
        let (fast, slow) = world.weather.skew;
        let share = world.between(0..101) as f64 / 100.0;
        Arc::new(Self {
            name,
            rate: fast + (slow - fast) * share,
            frozen: Mutex::new(now),
            cut: Mutex::new([now; 2]),
            running: Mutex::default(),
        })
    }

    /// Runs `main` as this process.
    pub fn start<T: Send + 'static>(
        self: &Arc<Self>,
        main: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let main = Frozen {
            process: Arc::clone(self),
            main: Box::pin(main),
            thaw: None,
        };
        let task = tokio::spawn(main);
        *lock(&self.running) = Some(task.abort_handle());
        task
    }

    /// Kill −9.
    pub fn kill(&self) {
        if let Some(task) = lock(&self.running).take() {
            task.abort();
        }
    }

    /// Stops the process in its tracks for `ms`: it becomes a zombie.
    pub fn freeze(&self, ms: u64) {
        *lock(&self.frozen) = Instant::now() + Duration::from_millis(ms);
    }

    /// Cuts the process off for `ms`.
    pub fn cut_off(&self, from: Reach, ms: u64) {
        lock(&self.cut)[from as usize] = Instant::now() + Duration::from_millis(ms);
    }

    /// Undoes [`Process::freeze`] and [`Process::cut_off`].
    pub fn heal(&self) {
        let now = Instant::now();
        *lock(&self.frozen) = now;
        *lock(&self.cut) = [now; 2];
    }

    pub fn is_cut_off(&self, from: Reach) -> bool {
        lock(&self.cut)[from as usize] > Instant::now()
    }

    pub fn is_frozen(&self) -> bool {
        *lock(&self.frozen) > Instant::now()
    }

    /// Returns once the process is not frozen.
    pub async fn awake(&self) {
        loop {
            let until = *lock(&self.frozen);
            if until <= Instant::now() {
                return;
            }
            // Looks again now and then: it may be healed before its time.
            sleep_until(until.min(Instant::now() + Duration::from_secs(1))).await;
        }
    }

    /// Sleeps for `ms` of the process's own clock.
    pub async fn sleep(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms).mul_f64(self.rate)).await;
    }
}

/// A process's main future, not polled while the process is frozen.
struct Frozen<F> {
    process: Arc<Process>,
    main: Pin<Box<F>>,
    thaw: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<F: Future> Future for Frozen<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.thaw.is_none() && self.process.is_frozen() {
            let process = Arc::clone(&self.process);
            self.thaw = Some(Box::pin(async move { process.awake().await }));
        }
        if let Some(thaw) = &mut self.thaw {
            if thaw.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.thaw = None;
        }
        self.main.as_mut().poll(context)
    }
}

/// All processes that run now, by name.
#[derive(Default)]
pub struct Roster(Mutex<BTreeMap<String, Arc<Process>>>);

impl Roster {
    pub fn enlist(&self, process: &Arc<Process>) {
        lock(&self.0).insert(process.name.clone(), Arc::clone(process));
    }

    pub fn dismiss(&self, process: &Process) {
        lock(&self.0).remove(&process.name);
    }

    /// The processes that run now whose names begin with `kind`.
    pub fn of(&self, kind: &str) -> Vec<Arc<Process>> {
        let all = lock(&self.0);
        let of_kind = all.values().filter(|p| p.name.starts_with(kind));
        of_kind.cloned().collect()
    }
}

/// Keeps a process running: starts it again after each death, until `main` says
/// that it is done for good.
pub async fn supervise<Fut: Future<Output = bool> + Send + 'static>(
    world: Arc<World>,
    roster: Arc<Roster>,
    kind: String,
    main: impl Fn(Arc<Process>) -> Fut,
) {
    for life in 1.. {
        let process = Process::new(&world, format!("{kind}.{life}"));
        roster.enlist(&process);
        world.note(format_args!("{} starts", process.name));
        let outcome = process.start(main(Arc::clone(&process))).await;
        roster.dismiss(&process);
        match outcome {
            Ok(true) => return world.note(format_args!("{} is done", process.name)),
            Ok(false) => world.note(format_args!("{} exits", process.name)),
            Err(error) if error.is_panic() => {
                return world.violate(format!("{} panicked: {error}", process.name));
            }
            Err(_) => world.note(format_args!("{} is killed", process.name)),
        }
        world.pass(200..4_000).await;
    }
}
