//! Leases: who does what until when. Nothing here is durable, and nothing that
//! is durable rests on it: outputs are content-addressed and the first
//! completion wins, so a lease only saves work from being done twice.

use super::State;
use super::blame::Failure;
use super::event::{Answer, Effect, Event, LeaseKey, Rejected, TaskKey, Timestamp};
use quarry_proto::Lease;
use std::collections::BTreeMap;

/// Longest wait for work, whatever a worker asks for.
const LONGEST_WAIT_MS: u64 = 60_000;
/// A backup attempt starts beyond this multiple of the median duration …
const STRAGGLER_RATIO: f64 = 1.5;
/// … once this share of the tasks of the same kind is done.
const STRAGGLER_SHARE: f64 = 0.75;
/// … and never before the task has taken this long: short ones end by themselves.
const STRAGGLER_LEAST_MS: u64 = 5_000;

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

/// A worker that waits for work.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiter {
    /// Names the request.
    pub ticket: u64,
    /// The worker.
    pub worker: String,
    /// When it is answered in any case.
    pub until: Timestamp,
}

/// Everything known of the fleet.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// Live leases, all on tasks of the open generation that are not done.
    pub leases: BTreeMap<LeaseKey, Held>,
    /// Workers waiting for work, first come first served.
    pub waiting: Vec<Waiter>,
    /// When each worker was last heard of.
    pub seen: BTreeMap<String, Timestamp>,
    /// When any worker was last heard of.
    pub last_contact: Timestamp,
    /// Durations of finished attempts in milliseconds, sorted, by kind of work.
    pub durations: BTreeMap<&'static str, Vec<u64>>,
    /// Medians of the generation before, for estimates.
    past: BTreeMap<&'static str, u64>,
    last_lease: u64,
}

impl Fleet {
    /// Median duration of the kind of work, in milliseconds.
    #[must_use]
    pub fn median_ms(&self, kind: &str) -> Option<u64> {
        let sorted = self.durations.get(kind)?;
        sorted.get(sorted.len() / 2).copied()
    }

    /// Median duration of the kind of work in this generation or the one before.
    #[must_use]
    pub fn expected_ms(&self, kind: &str) -> Option<u64> {
        self.median_ms(kind)
            .or_else(|| self.past.get(kind).copied())
    }

    /// Another generation begins: another checkpoint, other durations.
    pub(super) fn forget_durations(&mut self) {
        for (kind, sorted) in std::mem::take(&mut self.durations) {
            self.past
                .extend(sorted.get(sorted.len() / 2).map(|median| (kind, *median)));
        }
    }

    fn learn(&mut self, kind: &'static str, duration: u64) {
        let sorted = self.durations.entry(kind).or_default();
        let at = sorted.partition_point(|d| *d <= duration);
        sorted.insert(at, duration);
    }
}

impl State {
    /// Notes that a worker was heard of.
    pub(super) fn see(&mut self, now: Timestamp, worker: &str, effects: &mut Vec<Effect>) {
        self.fleet.last_contact = now;
        if self.fleet.seen.insert(worker.to_owned(), now).is_none() {
            let worker = worker.to_owned();
            effects.push(Effect::WorkerJoined { worker });
        }
    }

    pub(super) fn request_work(&mut self, now: Timestamp, ticket: u64, worker: String, ms: u64) {
        self.fleet.waiting.push(Waiter {
            ticket,
            worker,
            until: now.plus(ms.min(LONGEST_WAIT_MS)),
        });
    }

    /// The coordinator could not listen for `ms`: silence during that time is
    /// nobody's fault.
    pub(super) fn forgive(&mut self, ms: u64) {
        for held in self.fleet.leases.values_mut() {
            held.deadline = held.deadline.plus(ms);
        }
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
        if let Some(held) = self.fleet.leases.get_mut(&lease) {
            if held.worker == worker {
                held.deadline = deadline;
                held.progress = progress.clamp(0.0, 1.0);
            }
            let cancelled = held.worker != worker;
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
            self.fleet.leases.insert(lease, held);
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
        let of_task = |held: &&Held| held.task == task.number;
        let mut holders = self.fleet.leases.values().filter(of_task);
        let free = match (holders.next(), holders.next()) {
            (None, _) => board.ready.contains(&task.number),
            (Some(only), None) => only.worker != worker,
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
        let held = self.fleet.leases.get(&lease).filter(ours);
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
        let Some(held) = self.fleet.leases.remove(&lease) else {
            return;
        };
        if let (Some(board), Some(open)) = (self.board.as_mut(), self.run.open.as_ref()) {
            board.free(open, held.task);
        }
    }

    /// Removes every lease on a finished task, and learns how long it took.
    pub(super) fn end_leases_of(&mut self, now: Timestamp, task: u32, winner: LeaseKey) {
        if let (Some(held), Some(board)) = (self.fleet.leases.get(&winner), self.board.as_ref()) {
            let kind = board.plan.tasks[task as usize].work.kind();
            self.fleet.learn(kind, now.since(held.granted));
        }
        self.fleet.leases.retain(|_, held| held.task != task);
    }

    /// Lets leases lapse, answers requests that waited long enough and forgets
    /// workers that vanished.
    pub(super) fn expire(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let lapsed = |(key, held): (&LeaseKey, &Held)| (held.deadline <= now).then_some(*key);
        let lapsed: Vec<LeaseKey> = self.fleet.leases.iter().filter_map(lapsed).collect();
        for lease in lapsed {
            let Some(held) = self.fleet.leases.get(&lease) else {
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
        self.fleet.waiting.retain(|waiter| {
            let over = waiter.until <= now;
            if over {
                let (ticket, finished) = (waiter.ticket, false);
                effects.push(Effect::NoWork { ticket, finished });
            }
            !over
        });
        let busy = |worker: &String| {
            self.fleet.waiting.iter().any(|w| w.worker == *worker)
                || self.fleet.leases.values().any(|h| h.worker == *worker)
        };
        let lease_ms = self.settings.lease_ms();
        let gone = |(worker, seen): (&String, &Timestamp)| {
            (now.since(*seen) > lease_ms && !busy(worker)).then(|| worker.clone())
        };
        let gone: Vec<String> = self.fleet.seen.iter().filter_map(gone).collect();
        for worker in gone {
            self.fleet.seen.remove(&worker);
            effects.push(Effect::WorkerVanished { worker });
        }
    }

    /// Gives waiting workers what there is to do.
    pub(super) fn grant(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let finished = self.run.trained() && self.run.open.is_none();
        for waiter in std::mem::take(&mut self.fleet.waiting) {
            let ticket = waiter.ticket;
            // A worker that waits is alive.
            self.fleet.seen.insert(waiter.worker.clone(), now);
            self.fleet.last_contact = now;
            if finished {
                effects.push(Effect::NoWork { ticket, finished });
            } else if let Some(lease) = self.lease_for(now, &waiter.worker) {
                effects.push(Effect::Grant { ticket, lease });
            } else {
                self.fleet.waiting.push(waiter);
            }
        }
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
        self.fleet.leases.insert(LeaseKey { epoch, id }, held);
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

    /// A task whose only attempt takes much longer than its like did.
    fn straggler(&self, now: Timestamp, worker: &str) -> Option<u32> {
        let board = self.board.as_ref()?;
        let slow = |held: &&Held| {
            let kind = board.plan.tasks[held.task as usize].work.kind();
            let (done, all) = board.progress_of(kind);
            let Some(median) = self.fleet.median_ms(kind) else {
                return false;
            };
            held.worker != worker
                && !board.failed_with(held.task, worker)
                && board.holders(held.task) == 1
                && f64::from(done) >= STRAGGLER_SHARE * f64::from(all)
                && now.since(held.granted) >= STRAGGLER_LEAST_MS
                && now.since(held.granted) as f64 > STRAGGLER_RATIO * median as f64
        };
        let oldest = |held: &&Held| (held.granted, held.task);
        let held = self.fleet.leases.values().filter(slow).min_by_key(oldest)?;
        Some(held.task)
    }
}
