//! One simulated world: its seed, its virtual clock, its trace and its verdict.
//!
//! Every random draw of a simulation comes from the one generator here, in the
//! order in which things happen, and things happen on one thread: the seed fixes
//! them all.

use crate::mutation::Bug;
use crate::weather::Weather;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt::Arguments;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What all processes of a simulation share, and none of them knows of.
pub struct World {
    /// What goes wrong, and how often.
    pub weather: Weather,
    /// The bug planted into the coordinators, if any.
    pub bug: Option<Bug>,
    random: Mutex<ChaCha8Rng>,
    started: Instant,
    calm: AtomicBool,
    trace: Mutex<Vec<String>>,
    verdict: Mutex<Option<String>>,
    over: Notify,
}

/// A lock that outlasts a panic elsewhere, which is reported by itself.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// The world of `seed`, at its beginning. Must be made inside its runtime.
    pub fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self {
            weather: Weather::draw(&mut random),
            bug,
            random: Mutex::new(random),
            started: Instant::now(),
            calm: AtomicBool::new(true),
            trace: Mutex::default(),
            verdict: Mutex::default(),
            over: Notify::new(),
        }
    }

    /// True with probability `p`.
    pub fn chance(&self, p: f64) -> bool {
        lock(&self.random).random_bool(p)
    }

    /// Whether something goes wrong that does with probability `p`, between the
    /// beginning and the calm.
    pub fn fault(&self, p: f64) -> bool {
        self.chance(p) && !self.is_calm()
    }

    /// A number of `range`.
    pub fn between(&self, range: Range<u64>) -> u64 {
        lock(&self.random).random_range(range)
    }

    /// One of `all`, which are not none.
    pub fn one_of<'a, T>(&self, all: &'a [T]) -> &'a T {
        let last = all.len() as u64;
        &all[usize::try_from(self.between(0..last)).unwrap()]
    }

    /// Lets some milliseconds of `range` pass.
    pub async fn pass(&self, range: Range<u64>) {
        let ms = self.between(range);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Milliseconds since the beginning.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }

    /// From now on things go wrong.
    pub fn begin(&self) {
        self.calm.store(false, Ordering::SeqCst);
    }

    /// From now on nothing goes wrong any more.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::SeqCst);
        self.note(format_args!("calm"));
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }

    /// Adds a line to the trace.
    pub fn note(&self, event: Arguments<'_>) {
        let line = format!("{:>7} {event}", self.now());
        lock(&self.trace).push(line);
    }

    /// A law is broken: the simulation ends. The first breach counts.
    pub fn violate(&self, law: impl Into<String>) {
        let law = law.into();
        self.note(format_args!("VIOLATION {law}"));
        lock(&self.verdict).get_or_insert(law);
        self.over.notify_one();
    }

    /// A law may be broken.
    pub fn require(&self, kept: Result<(), String>) {
        if let Err(law) = kept {
            self.violate(law);
        }
    }

    /// Returns once a law is broken.
    pub async fn broken(&self) {
        self.over.notified().await;
    }

    pub fn verdict(&self) -> Option<String> {
        lock(&self.verdict).clone()
    }

    pub fn trace(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.trace))
    }
}
