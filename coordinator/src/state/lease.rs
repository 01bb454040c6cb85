//! Leases: who does what until when. Nothing here is durable, and nothing that
//! is durable rests on it: outputs are content-addressed and the first
//! completion wins, so a lease only saves work from being done twice.

use super::State;
use super::blame::Failure;
use super::durations::Durations;
use super::event::{Answer, Effect, Event, LeaseKey, Rejected, TaskKey, Timestamp};
use super::held::{Held, Leases};
use quarry_proto::Lease;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Longest wait for work, whatever a worker asks for.
const LONGEST_WAIT_MS: u64 = 60_000;
/// A worker that waits for work.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiter {
    /// Names the request.
    pub ticket: u64,
    /// The worker.
    pub worker: String,
    /// When it is answered in any case; `None` if by the event that brings it.
    pub until: Option<Timestamp>,
}

/// Everything known of the fleet.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// Live leases, all on tasks of the open generation that are not done.
    pub leases: Leases,
    /// Workers waiting for work, first come first served.
    pub waiting: VecDeque<Waiter>,
    /// When each worker was last heard of, or, if it waits, began to wait or later.
    pub seen: BTreeMap<String, Timestamp>,
    /// When any worker was last heard of.
    pub last_contact: Timestamp,
    /// Durations of finished attempts by kind of work.
    durations: BTreeMap<&'static str, Durations>,
    /// Medians of the generation before, for estimates.
    past: BTreeMap<&'static str, u64>,
    last_lease: u64,
    /// Before this moment no lease lapses, no wait ends and no worker vanishes: there
    /// is no need to look.
    quiet_until: Timestamp,
}

impl Fleet {
    /// Median duration of the kind of work, in milliseconds.
    #[must_use]
    pub fn median_ms(&self, kind: &str) -> Option<u64> {
        self.durations.get(kind)?.median()
    }

    /// Median duration of the kind of work in this generation or the one before.
    #[must_use]
    pub fn expected_ms(&self, kind: &str) -> Option<u64> {
        self.median_ms(kind)
            .or_else(|| self.past.get(kind).copied())
    }

    /// Another generation begins: another checkpoint, other durations.
    pub(super) fn forget_durations(&mut self) {
        for (kind, durations) in std::mem::take(&mut self.durations) {
            self.past
                .extend(durations.median().map(|median| (kind, median)));
        }
    }

    fn learn(&mut self, kind: &'static str, duration: u64) {
        self.durations.entry(kind).or_default().learn(duration);
    }

    fn hold(&mut self, key: LeaseKey, held: Held) {
        self.quiet_until = self.quiet_until.min(held.deadline);
        self.leases.insert(key, held);
    }

    /// Notes a sign of life; returns whether it is the first of a worker that vanishes
    /// after `lease_ms` without another.
    fn hear(&mut self, now: Timestamp, worker: &str, lease_ms: u64) -> bool {
        self.quiet_until = self.quiet_until.min(vanishing(now, lease_ms));
        match self.seen.get_mut(worker) {
            Some(seen) => *seen = now,
            None => return self.seen.insert(worker.to_owned(), now).is_none(),
        }
        false
    }
}

/// When a worker last heard of at `seen` has been silent for longer than a lease.
fn vanishing(seen: Timestamp, lease_ms: u64) -> Timestamp {
    seen.plus(lease_ms).plus(1)
}

impl State {
    /// Notes that a worker was heard of.
    pub(super) fn see(&mut self, now: Timestamp, worker: &str, effects: &mut Vec<Effect>) {
        self.fleet.last_contact = now;
        if self.fleet.hear(now, worker, self.settings.lease_ms()) {
            let worker = worker.to_owned();
            effects.push(Effect::WorkerJoined { worker });
        }
    }

    /// A request of 0 ms does not wait.
    pub(super) fn request_work(&mut self, now: Timestamp, ticket: u64, worker: String, ms: u64) {
        let until = (ms > 0).then(|| now.plus(ms.min(LONGEST_WAIT_MS)));
        if let Some(until) = until {
            self.fleet.quiet_until = self.fleet.quiet_until.min(until);
        }
        self.fleet.waiting.push_back(Waiter {
            ticket,
            worker,
            until,
        });
    }

    /// Nobody listens for the answer any more. The worker was alive until now.
    pub(super) fn abandon(&mut self, now: Timestamp, ticket: u64) {
        let lease_ms = self.settings.lease_ms();
        let Some(at) = self.fleet.waiting.iter().position(|w| w.ticket == ticket) else {
            return;
        };
        if let Some(waiter) = self.fleet.waiting.remove(at) {
            self.fleet.hear(now, &waiter.worker, lease_ms);
        }
    }

    /// The coordinator could not listen for `ms`: silence during that time is
    /// nobody's fault.
    pub(super) fn forgive(&mut self, ms: u64) {
        self.fleet.leases.prolong(ms);
        let seen = self.fleet.seen.values_mut();
        let trainer = self.trainer.as_mut().map(|(at, _)| at);
        for at in seen.chain(trainer).chain([&mut self.fleet.last_contact]) {
            *at = at.plus(ms);
        }
    }

    /// Renews a lease, or takes one of an earlier epoch (or one that lapsed)
    /// over, as a second attempt if need be: a restart loses no work.
    pub(super) fn heartbeat(&mut self, now: Timestamp, event: Event) -> Answer {
        let Event::Heartbeat {
            worker,
            lease,
            task,
            progress,
        } = event
        else {
            return Answer::Beat { cancelled: true };
        };
        let deadline = now.plus(self.settings.lease_ms());
        if let Some(held) = self.fleet.leases.get(lease) {
            let cancelled = held.worker != worker;
            if !cancelled {
                let progress = progress.clamp(0.0, 1.0);
                self.fleet.leases.renew(lease, deadline, progress);
            }
            return Answer::Beat { cancelled };
        }
        self.acquit(&worker, lease);
        let adopted = task.filter(|task| self.is_adoptable(*task, &worker));
        if let (Some(task), Some(board)) = (adopted, self.board.as_mut()) {
            board.hold(task.number);
            let held = Held {
                task: task.number,
                worker,
                granted: now,
                deadline,
                progress,
            };
            self.fleet.hold(lease, held);
        }
        Answer::Beat {
            cancelled: adopted.is_none(),
        }
    }

    /// Whether the worker may go on with a task under a lease that is not
    /// known: nobody holds the task, or one other worker does. That one got it
    /// because leases are forgotten at a restart, and may have just begun.
    fn is_adoptable(&self, task: TaskKey, worker: &str) -> bool {
        let (Some(open), Some(board)) = (&self.run.open, &self.board) else {
            return false;
        };
        let mut holders = self.fleet.leases.of_task(task.number);
        let free = match (holders.next(), holders.next()) {
            (None, _) => board.ready.contains(&task.number),
            (Some((_, only)), None) => only.worker != worker,
            (Some(_), Some(_)) => false,
        };
        open.generation == task.generation && free
    }

    /// Ends a lease undone. Word of a failure counts even if the lease has lapsed.
    pub(super) fn return_lease(
        &mut self,
        now: Timestamp,
        event: Event,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer, Rejected> {
        let Event::LeaseReturned {
            worker,
            lease,
            reason,
            failed,
        } = event
        else {
            return Ok(Answer::Done);
        };
        let ours = |held: &&Held| held.worker == worker;
        let held = self.fleet.leases.get(lease).filter(ours);
        let task = match held.map(|held| held.task) {
            Some(task) => {
                self.end_lease(lease);
                Some(task)
            }
            None => self.acquit(&worker, lease),
        };
        let (Some(task), Some(board)) = (task, self.board.as_mut()) else {
            return Ok(Answer::Done); // superseded: harmless
        };
        if failed {
            let failure = Failure {
                task,
                worker,
                lease,
                at: now,
                reason: Some(reason),
            };
            self.blame(failure, effects);
        } else {
            board.handed_back(&worker, &reason);
        }
        Ok(Answer::Done)
    }

    /// Removes a lease and frees its task.
    fn end_lease(&mut self, lease: LeaseKey) {
        let Some(held) = self.fleet.leases.remove(lease) else {
            return;
        };
        if let (Some(board), Some(open)) = (self.board.as_mut(), self.run.open.as_ref()) {
            board.free(open, held.task);
        }
    }

    /// Removes every lease on a finished task, and learns how long it took.
    pub(super) fn end_leases_of(&mut self, now: Timestamp, task: u32, winner: LeaseKey) {
        if let (Some(held), Some(board)) = (self.fleet.leases.get(winner), self.board.as_ref()) {
            let kind = board.plan.tasks[held.task as usize].work.kind();
            self.fleet.learn(kind, now.since(held.granted));
        }
        let keys: Vec<LeaseKey> = self.fleet.leases.of_task(task).map(|(k, _)| k).collect();
        for key in keys {
            self.fleet.leases.remove(key);
        }
    }

    /// Lets leases lapse, answers requests that waited long enough and forgets
    /// workers that vanished.
    pub(super) fn expire(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if now < self.fleet.quiet_until {
            return;
        }
        self.lapse(now, effects);
        self.end_waits(now, effects);
        for worker in self.vanished(now) {
            self.fleet.seen.remove(&worker);
            effects.push(Effect::WorkerVanished { worker });
        }
        self.fleet.quiet_until = self.next_expiry(now);
    }

    /// Workers that were silent for longer than a lease and neither hold one nor wait.
    fn vanished(&self, now: Timestamp) -> Vec<String> {
        let (fleet, lease_ms) = (&self.fleet, self.settings.lease_ms());
        let silent = fleet.seen.iter();
        let silent = silent.filter(|(_, seen)| vanishing(**seen, lease_ms) <= now);
        let mut silent: BTreeSet<&String> = silent.map(|(worker, _)| worker).collect();
        if !silent.is_empty() {
            let waiting = fleet.waiting.iter().map(|waiter| &waiter.worker);
            let holding = fleet.leases.values().map(|held| &held.worker);
            waiting.chain(holding).for_each(|busy| {
                silent.remove(busy);
            });
        }
        silent.into_iter().cloned().collect()
    }

    /// Until when nothing expires. Whoever is silent now waits, and is heard of when it
    /// no longer does.
    fn next_expiry(&self, now: Timestamp) -> Timestamp {
        let (fleet, lease_ms) = (&self.fleet, self.settings.lease_ms());
        let lapses = fleet.leases.values().map(|held| held.deadline);
        let ends = fleet.waiting.iter().filter_map(|waiter| waiter.until);
        let vanish = fleet.seen.values().map(|seen| vanishing(*seen, lease_ms));
        let vanish = vanish.filter(|at| *at > now);
        let all = lapses.chain(ends).chain(vanish);
        all.min().unwrap_or(Timestamp(u64::MAX))
    }

    fn lapse(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let lapsed = |(key, held): (&LeaseKey, &Held)| (held.deadline <= now).then_some(*key);
        let lapsed: Vec<LeaseKey> = self.fleet.leases.iter().filter_map(lapsed).collect();
        for lease in lapsed {
            let Some(held) = self.fleet.leases.get(lease) else {
                break; // the generation was given up over the one before
            };
            let failure = Failure {
                task: held.task,
                worker: held.worker.clone(),
                lease,
                at: now,
                reason: None,
            };
            self.end_lease(lease);
            self.blame(failure, effects);
        }
    }

    fn end_waits(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let lease_ms = self.settings.lease_ms();
        let all = std::mem::take(&mut self.fleet.waiting).into_iter();
        let (over, waiting): (Vec<Waiter>, _) =
            all.partition(|waiter| waiter.until.is_some_and(|until| until <= now));
        self.fleet.waiting = waiting.into();
        for waiter in over {
            // A worker that waits is alive.
            self.fleet.hear(now, &waiter.worker, lease_ms);
            let (ticket, finished) = (waiter.ticket, false);
            effects.push(Effect::NoWork { ticket, finished });
        }
    }

    /// Gives waiting workers what there is to do.
    pub(super) fn grant(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.fleet.waiting.is_empty() {
            return;
        }
        self.fleet.last_contact = now;
        let finished = self.run.trained() && self.run.open.is_none();
        let lease_ms = self.settings.lease_ms();
        let mut empty_handed = Vec::new();
        // Stops when nothing is left: a thousand may wait while one task is done.
        while finished || self.has_work(now) {
            let Some(waiter) = self.fleet.waiting.pop_front() else {
                break;
            };
            // A worker that waits is alive.
            self.fleet.hear(now, &waiter.worker, lease_ms);
            let ticket = waiter.ticket;
            if finished {
                effects.push(Effect::NoWork { ticket, finished });
            } else if let Some(lease) = self.lease_for(now, &waiter.worker) {
                effects.push(Effect::Grant { ticket, lease });
            } else {
                empty_handed.push(waiter);
            }
        }
        for waiter in empty_handed.into_iter().rev() {
            self.fleet.waiting.push_front(waiter);
        }
        self.turn_away(effects);
    }

    /// Answers the newest request if it does not wait.
    fn turn_away(&mut self, effects: &mut Vec<Effect>) {
        if let Some(waiter) = self
            .fleet
            .waiting
            .pop_back_if(|waiter| waiter.until.is_none())
        {
            let (ticket, finished) = (waiter.ticket, false);
            effects.push(Effect::NoWork { ticket, finished });
        }
    }

    /// Whether there is a task that some worker could be given.
    fn has_work(&self, now: Timestamp) -> bool {
        let ready = self.board.as_ref().is_some_and(|b| !b.ready.is_empty());
        ready || self.stragglers(now).next().is_some()
    }

    fn lease_for(&mut self, now: Timestamp, worker: &str) -> Option<Lease> {
        let number = self.choose(now, worker)?;
        let open = self.run.open.as_ref()?;
        let board = self.board.as_mut()?;
        let task = board.task(open, number)?;
        let attempt = board.hold(number);
        self.fleet.last_lease += 1;
        let duration = self.settings.lease_ms();
        let (epoch, id) = (self.run.epoch, self.fleet.last_lease);
        let held = Held {
            task: number,
            worker: worker.to_owned(),
            granted: now,
            deadline: now.plus(duration),
            progress: 0.0,
        };
        self.fleet.hold(LeaseKey { epoch, id }, held);
        Some(Lease {
            id,
            attempt,
            epoch,
            duration_ms: u32::try_from(duration).unwrap_or(u32::MAX),
            task,
        })
    }

    /// The next task for a worker: one that failed and is due again, else the first
    /// that is ready and has not failed, or else a straggler's.
    pub(super) fn choose(&self, now: Timestamp, worker: &str) -> Option<u32> {
        let board = self.board.as_ref()?;
        let unblamed = |task: &&u32| board.failures_of(**task).next().is_none();
        self.suspect(now, worker)
            .or_else(|| board.ready.iter().find(unblamed).copied())
            .or_else(|| self.straggler(now, worker))
    }
}
