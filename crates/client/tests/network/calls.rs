//! Every call of the wire, cut off before it arrives and before its answer does: it
//! ends in time, as it should, and takes effect once.

use crate::coordinator::{serve, url};
use crate::fault::Fault;
use crate::work::{make, perform, until_active};
use crate::world::{World, network, play};
use quarry_artifacts::CheckpointRef;
use quarry_client::outbox::{Letter, Outbox};
use quarry_client::worker::{self, Acquired};
use quarry_client::{Activation, Client, Heartbeats, follow, overview, trainer};
use quarry_coordinator::state::Change;
use quarry_proto::{Lease, v1};
use quarry_service::ServiceChannel;
use quarry_service::patience::within;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

/// How long a call may go without an answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longer than a call waits, so that each is made again that may be.
const CUT: Duration = Duration::from_secs(12);
/// A connection that is dead without a word is known to be after 25 s; and a cut
/// that comes with it, and the next attempt.
const LIMIT: Duration = Duration::from_secs(45);
/// Longer than any of this, so that only what nobody heard of lapses.
const LEASE: Duration = Duration::from_secs(90);
const TASK: Duration = Duration::from_secs(1);

/// When a call is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Its connection stands, and nothing of it has arrived.
    Before,
    /// What it asks for is done, and nothing of its answer has left.
    After,
}

/// The callers, all on one host, and the cut they will meet.
struct Callers {
    world: World,
    moment: Moment,
    fault: Fault,
    client: Client,
    trainer: trainer::Link,
}

impl Callers {
    fn new(world: World, moment: Moment, fault: Fault) -> Self {
        let channel = ServiceChannel::lazy(&url("leader"), None).unwrap();
        let client = Client::new(channel.clone());
        let trainer = trainer::Link::new(channel);
        Self {
            world,
            moment,
            fault,
            client,
            trainer,
        }
    }

    fn worker(&self, name: &str) -> worker::Link {
        worker::Link::new(&url("leader"), None, name.to_owned()).unwrap()
    }

    /// Makes `call`, whose next attempt is cut off; `method` is its name on the wire.
    async fn cut<T>(&self, method: &'static str, call: impl Future<Output = T>) -> T {
        let (started, fault) = (Instant::now(), self.fault);
        self.world.note(format_args!("cut {method}"));
        match self.moment {
            Moment::Before => fault.strike("callers", "leader", CUT),
            Moment::After => self.world.traps.set(method, fault, "callers", CUT),
        }
        let ended = timeout(LIMIT, call).await;
        let ended = ended.unwrap_or_else(|_| panic!("{method} did not end in {LIMIT:?}"));
        assert!(self.world.traps.sprung(), "{method} was not called");
        self.world
            .note(format_args!("{method} ended after {:?}", started.elapsed()));
        ended
    }

    /// A call that is made once ends by its deadline, answered only if the answer was
    /// merely late, and that it cannot be: the cut is longer.
    async fn cut_once<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, Status>>,
    ) {
        let started = Instant::now();
        let status = self.cut(method, call).await.err().unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{method}: {status}");
        let took = started.elapsed();
        assert!(
            took <= DEADLINE + Duration::from_millis(100),
            "{method} took {took:?}"
        );
        self.heal().await;
    }

    /// Waits until the cut is over and what died with it is known to be dead.
    async fn heal(&self) {
        sleep(LIMIT - CUT).await;
    }

    async fn lease(&self, link: &worker::Link) -> Lease {
        loop {
            match link.acquire().await.unwrap() {
                Acquired::Lease(lease) => return *lease,
                Acquired::Nothing => {}
                Acquired::RunFinished => panic!("the run is finished"),
            }
        }
    }

    async fn completed(&self, lease: &Lease) -> usize {
        let of = (lease.task.generation, lease.task.number);
        let is_it = |change: &Change| matches!(change, Change::TaskCompleted { generation, task, .. } if (*generation, *task) == of);
        self.world.count(is_it).await
    }

    /// AcquireLease, Heartbeat and CompleteTask, until generation 0 is there.
    async fn work(&self) {
        let link = self.worker("worker-1");
        let first = self.cut("AcquireLease", self.lease(&link)).await;
        let cancelled = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&cancelled);
        let cancel = move || noted.store(true, Ordering::Relaxed);
        let heartbeats = Heartbeats::start(link.clone(), first.clone(), || 0.5, cancel);
        sleep(first.pause(false) - CUT / 2).await; // shortly before the first heartbeat
        self.cut("Heartbeat", sleep(LIMIT - Duration::from_secs(1)))
            .await;
        assert!(
            !cancelled.load(Ordering::Relaxed),
            "a heartbeat cost the task"
        );
        drop(heartbeats);
        self.cut_once("Heartbeat", link.heartbeat(&first, 0.5))
            .await;
        assert!(!link.heartbeat(&first, 0.9).await.unwrap());

        let output = make(&self.world.store("callers"), &first.task).await;
        let completed = self
            .cut("CompleteTask", link.complete(&first, &output, true))
            .await;
        let completed = completed.unwrap();
        assert!(completed.accepted, "its own repetition beat it");
        assert!(completed.next.is_none(), "a repetition asked for more");
        assert_eq!(self.completed(&first).await, 1);

        // A lease that nobody heard of lapses, and its task is given to another.
        let other = self.worker("worker-2");
        let last = timeout(LEASE, self.lease(&other)).await.unwrap();
        assert!(perform(&self.world, &other, &last, TASK).await);
        assert_eq!(self.completed(&last).await, 1);
    }

    /// ReturnLease: two of three workers fail at a task. If one of the failures counted
    /// twice, the generation would be given up.
    async fn fail(&self) {
        let busy = self.worker("worker-1");
        let lease = self.lease(&busy).await;
        let _heartbeats = Heartbeats::start(busy, lease, || 0.5, || panic!("cancelled"));
        for name in ["worker-2", "worker-3"] {
            let link = self.worker(name);
            let lease = self.lease(&link).await;
            let returned = link.give_back(lease.id, lease.epoch, "the disk is full", true);
            self.cut("ReturnLease", returned).await.unwrap();
        }
        let aborted = |change: &Change| matches!(change, Change::GenerationAborted { .. });
        assert_eq!(
            self.world.count(aborted).await,
            0,
            "a failure counted twice"
        );
    }

    /// WatchGenerations, ReportSwap, PublishCheckpoint and ReportProgress.
    async fn train(&self) {
        let (announce, mut announced) = watch::channel(None);
        let listener = tokio::spawn(follow(self.trainer.clone(), 0, announce));
        self.cut("WatchGenerations", announced.changed())
            .await
            .unwrap();
        let activation: Activation = announced.borrow_and_update().clone().unwrap();
        assert_eq!((activation.activation, activation.generation), (1, 0));
        listener.abort();

        let outbox = Outbox::start(&Handle::current(), self.trainer.clone());
        outbox.post(Letter::Swap {
            step: 3,
            activation,
        });
        self.cut("ReportSwap", outbox.flush(LIMIT)).await.unwrap();
        let swaps = |change: &Change| matches!(change, Change::TrainerSwapped { step: 3, .. });
        assert_eq!(self.world.count(swaps).await, 1);

        let saved: CheckpointRef = self.world.checkpoints[1].clone();
        outbox.post(Letter::Checkpoint {
            checkpoint: saved.clone(),
            last: false,
        });
        self.cut("PublishCheckpoint", outbox.flush(LIMIT))
            .await
            .unwrap();
        let announced = |change: &Change| matches!(change, Change::CheckpointPublished { checkpoint, .. } if *checkpoint == saved);
        assert_eq!(self.world.count(announced).await, 1);

        let report = |step| v1::ReportProgressRequest {
            step,
            ..Default::default()
        };
        self.cut_once("ReportProgress", self.trainer.report_progress(report(5)))
            .await;
        outbox.progress(report(7));
        sleep(Duration::from_secs(1)).await;
        let run = overview::look(&self.client).await.unwrap();
        assert_eq!(run.trainer.unwrap().step, 7);
    }

    /// GetRun and ListGenerations, once and outlasted.
    async fn look(&self) {
        self.cut_once("GetRun", overview::look(&self.client)).await;
        let seen = self
            .cut("GetRun", overview::look_within(&self.client, LIMIT))
            .await;
        assert_eq!(seen.unwrap().active.unwrap().generation, 0);
        self.cut("GetRun", self.trainer.greet(LIMIT)).await.unwrap();
        self.cut_once("ListGenerations", self.trainer.generations())
            .await;
        assert_eq!(self.trainer.generations().await.unwrap().len(), 1);
    }

    /// PauseRefresh and Rollback, which nobody repeats but a person.
    async fn steer(&self) {
        let pause = || {
            let mut client = self.client.clone();
            let request = v1::PauseRefreshRequest { paused: true };
            within(DEADLINE, async move { client.pause_refresh(request).await })
        };
        self.cut_once("PauseRefresh", pause()).await;
        pause().await.unwrap();
        assert!(overview::look(&self.client).await.unwrap().paused);

        let back = || {
            let mut client = self.client.clone();
            let request = v1::RollbackRequest { generation: 0 };
            within(DEADLINE, async move { client.rollback(request).await })
        };
        until_active(&self.world, &self.worker("worker-5"), &self.client, 1).await;
        self.cut_once("Rollback", back()).await;
        assert_eq!(back().await.unwrap().activation, 3);
        let rolled_back = |change: &Change| matches!(change, Change::RolledBack { .. });
        assert_eq!(self.world.count(rolled_back).await, 1);
    }
}

/// Plays what the callers do, `how` they do it and when they are cut off.
fn play_calls<Fut>(moment: Moment, fault: Fault, how: impl FnOnce(Callers) -> Fut + 'static)
where
    Fut: Future<Output = ()>,
{
    let world = World::prepare(2, LEASE);
    let mut sim = network(1).build();
    let (here, there) = (world.clone(), world.clone());
    sim.host("leader", move || serve("leader", here.clone(), true));
    sim.client("callers", async move {
        let callers = Callers::new(there, moment, fault);
        callers.trainer.greet(LIMIT).await?;
        how(callers).await;
        Ok(())
    });
    play(sim, &world);
}

fn every_call(moment: Moment, fault: Fault) {
    play_calls(moment, fault, async |callers| {
        callers.work().await;
        callers.train().await;
        callers.look().await;
        callers.steer().await;
    });
    play_calls(moment, fault, async |callers| callers.fail().await);
}

#[test]
fn calls_that_are_lost_are_made_again_and_take_effect_once() {
    every_call(Moment::Before, Fault::Lost);
}

#[test]
fn calls_that_are_late_are_made_again_and_take_effect_once() {
    every_call(Moment::Before, Fault::Late);
}

#[test]
fn calls_whose_answer_is_lost_take_effect_once() {
    every_call(Moment::After, Fault::Lost);
}

#[test]
fn calls_whose_answer_is_late_take_effect_once() {
    every_call(Moment::After, Fault::Late);
}
