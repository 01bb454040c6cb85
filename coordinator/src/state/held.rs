//! The live leases, found by name, by task and by age.
//!
//! A thousand of them are looked through at every event unless they are kept in order,
//! so they are. Refuses: deciding who gets one and when it lapses.

use super::event::{LeaseKey, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A granted lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Task of the open generation.
    pub task: u32,
    /// Who holds it.
    pub worker: String,
    /// When it was granted.
    pub granted: Timestamp,
    /// When it lapses, unless a heartbeat comes.
    pub deadline: Timestamp,
    /// Share done, as last reported.
    pub progress: f64,
}

/// Live leases, all on tasks of the open generation that are not done.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    by_key: BTreeMap<LeaseKey, Held>,
    by_task: BTreeSet<(u32, LeaseKey)>,
    by_age: BTreeSet<(Timestamp, u32, LeaseKey)>,
}

impl Leases {
    pub(super) fn insert(&mut self, key: LeaseKey, held: Held) {
        self.remove(key);
        self.by_task.insert((held.task, key));
        self.by_age.insert((held.granted, held.task, key));
        self.by_key.insert(key, held);
    }

    pub(super) fn remove(&mut self, key: LeaseKey) -> Option<Held> {
        let held = self.by_key.remove(&key)?;
        self.by_task.remove(&(held.task, key));
        self.by_age.remove(&(held.granted, held.task, key));
        Some(held)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A heartbeat came.
    pub(super) fn renew(&mut self, key: LeaseKey, deadline: Timestamp, progress: f64) {
        if let Some(held) = self.by_key.get_mut(&key) {
            held.deadline = deadline;
            held.progress = progress;
        }
    }

    /// Every lease lasts `ms` longer.
    pub(super) fn prolong(&mut self, ms: u64) {
        for held in self.by_key.values_mut() {
            held.deadline = held.deadline.plus(ms);
        }
    }

    /// The lease of that name.
    #[must_use]
    pub fn get(&self, key: LeaseKey) -> Option<&Held> {
        self.by_key.get(&key)
    }

    /// Leases on a task.
    pub fn of_task(&self, task: u32) -> impl Iterator<Item = (LeaseKey, &Held)> {
        let first = LeaseKey { epoch: 0, id: 0 };
        let from_here = self.by_task.range((task, first)..);
        let here = from_here.take_while(move |(t, _)| *t == task);
        here.filter_map(|(_, key)| Some((*key, self.by_key.get(key)?)))
    }

    /// Leases by the time they were granted, then by task.
    pub fn oldest_first(&self) -> impl Iterator<Item = &Held> {
        let keys = self.by_age.iter().map(|(.., key)| key);
        keys.filter_map(|key| self.by_key.get(key))
    }

    /// Leases by name.
    pub fn iter(&self) -> impl Iterator<Item = (&LeaseKey, &Held)> {
        self.by_key.iter()
    }

    /// Leases in the order of their names.
    pub fn values(&self) -> impl Iterator<Item = &Held> {
        self.by_key.values()
    }

    /// Whether that lease is alive.
    #[must_use]
    pub fn contains_key(&self, key: &LeaseKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Whether nobody holds any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}
