//! A leader that has lost its store, on virtual time: it falls silent though it has
//! nothing to write, so that a standby that has the store takes over.

use crate::fixture::checkpoint;
use crate::site::document;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use quarry_artifacts::{Retry, Store};
use quarry_coordinator::driver::{Driver, DriverError};
use quarry_coordinator::follower::{Follower, Taken};
use quarry_coordinator::handle::Handle;
use quarry_coordinator::log::LogError;
use quarry_coordinator::state::{Answer, Event, LeaseKey};
use quarry_proto::Lease;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// When a standby stops waiting for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// A leader has fallen silent after so long without a store.
const SILENT_AFTER: Duration = Duration::from_secs(17);
/// It answers again when the store has been back for so long.
const BACK_AFTER: Duration = Duration::from_secs(12);
const LEASE_SECONDS: u64 = 20;

type Objects = Arc<dyn ObjectStore>;

/// A leader, and the way to the store that can be cut for it alone.
struct Site {
    store: Store,
    way: Arc<ThrottledStore<Objects>>,
    leader: Handle,
    leading: JoinHandle<Result<(), DriverError>>,
}

fn over(objects: Objects) -> Store {
    Store::over(objects, "memory:", Retry::default())
}

async fn take_over(store: &Store, writer: &str, lease_seconds: u64) -> Taken {
    let mut run = document(checkpoint(0).clone());
    run.recipe["fleet"]["lease_seconds"] = lease_seconds.into();
    let follower = Follower::open(store.clone(), &run, writer).await;
    follower.unwrap().take_over(None).await.unwrap()
}

impl Site {
    async fn start() -> Self {
        Self::with_leases_of(LEASE_SECONDS).await
    }

    async fn with_leases_of(lease_seconds: u64) -> Self {
        let objects: Objects = Arc::new(InMemory::new());
        let config = ThrottleConfig::default();
        let way = Arc::new(ThrottledStore::new(Arc::clone(&objects), config));
        let cut = over(Arc::clone(&way) as Objects);
        let taken = take_over(&cut, "leader", lease_seconds).await;
        let (driver, leader) = Driver::new(cut, taken);
        Self {
            store: over(objects),
            way,
            leader,
            leading: tokio::spawn(driver.run()),
        }
    }

    /// Whether the leader hears nothing from its store.
    fn cut(&self, cut: bool) {
        let wait = Duration::from_secs(if cut { 1_000_000 } else { 0 });
        self.way.config_mut(|config| {
            config.wait_get_per_call = wait;
            config.wait_put_per_call = wait;
        });
    }

    async fn answers(&self) -> bool {
        let question = self.leader.inspect(|state, _| state.run.epoch);
        matches!(timeout(ANSWER_LIMIT, question).await, Ok(Ok(1)))
    }

    async fn lease(&self, worker: &str) -> LeaseKey {
        let answer = self.leader.work(worker.to_owned(), 0).await.unwrap();
        let Lease { epoch, id, .. } = answer.lease.unwrap();
        LeaseKey { epoch, id }
    }

    /// A heartbeat, on its way. It names no task: a lease that has lapsed is lost.
    fn beat(&self, worker: &str, lease: LeaseKey) -> JoinHandle<Answer> {
        let leader = self.leader.clone();
        let event = Event::Heartbeat {
            worker: worker.to_owned(),
            lease,
            task: None,
            progress: 0.5,
        };
        tokio::spawn(async move { leader.report(event).await.unwrap() })
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_has_lost_its_store_is_silent_until_it_is_back() {
    let site = Site::start().await;
    assert!(site.answers().await);
    site.cut(true);
    // A look or two in vain are not a loss.
    sleep(Duration::from_secs(8)).await;
    assert!(site.answers().await);
    site.cut(false);
    sleep(Duration::from_secs(5)).await;
    site.cut(true);
    sleep(Duration::from_secs(9)).await;
    assert!(site.answers().await, "it counts from the beginning");
    sleep(SILENT_AFTER - Duration::from_secs(9)).await;
    assert!(!site.answers().await);
    sleep(Duration::from_secs(3_600)).await;
    assert!(!site.answers().await);
    site.cut(false);
    sleep(BACK_AFTER).await;
    assert!(site.answers().await);
    assert!(!site.leading.is_finished());
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_meanwhile_is_answered_in_the_end() {
    let site = Site::start().await;
    site.cut(true);
    sleep(SILENT_AFTER).await;
    let leader = site.leader.clone();
    let patient = tokio::spawn(async move { leader.inspect(|state, _| state.run.epoch).await });
    let asked = Instant::now();
    sleep(Duration::from_secs(60)).await;
    assert!(!patient.is_finished());
    site.cut(false);
    assert_eq!(patient.await.unwrap().unwrap(), 1);
    assert!(asked.elapsed() < Duration::from_secs(60) + BACK_AFTER);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_that_queue_up_meanwhile_keep_every_lease() {
    let site = Site::start().await;
    let held = [("a", site.lease("a").await), ("b", site.lease("b").await)];
    site.cut(true);
    sleep(SILENT_AFTER).await;
    let beats = held.map(|(worker, lease)| site.beat(worker, lease));
    sleep(Duration::from_secs(3_600)).await;
    site.cut(false);
    for beat in beats {
        assert_eq!(beat.await.unwrap(), Answer::Beat { cancelled: false });
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_that_takes_its_time_costs_no_short_lease() {
    let site = Site::with_leases_of(2).await;
    sleep(Duration::from_millis(3_900)).await;
    let held = [("a", site.lease("a").await), ("b", site.lease("b").await)];
    site.cut(true);
    sleep(Duration::from_millis(1_200)).await; // a look has begun and holds up the heartbeats
    for beat in held.map(|(worker, lease)| site.beat(worker, lease)) {
        assert_eq!(beat.await.unwrap(), Answer::Beat { cancelled: false });
    }
}

#[tokio::test(start_paused = true)]
async fn law_6_a_leader_that_was_replaced_meanwhile_says_nothing_and_ends() {
    let site = Site::start().await;
    site.cut(true);
    sleep(SILENT_AFTER).await;
    take_over(&site.store, "standby", LEASE_SECONDS).await;
    assert!(!site.answers().await);
    site.cut(false);
    let ended = timeout(BACK_AFTER, site.leading).await.unwrap().unwrap();
    let fenced = matches!(ended, Err(DriverError::Log(LogError::Fenced { .. })));
    assert!(fenced, "{ended:?}");
    assert!(site.leader.inspect(|_, _| ()).await.is_err());
}
