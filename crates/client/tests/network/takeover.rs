//! A leader that its callers lose: a standby takes over, everybody follows it, and
//! the old leader changes nothing when it is back.

use crate::coordinator::{PATIENCE, serve, url};
use crate::fault::Fault;
use crate::streams::{Heard, listen, numbers};
use crate::work::work;
use crate::world::{World, network, play};
use quarry_client::outbox::{Letter, Outbox};
use quarry_client::{Activation, Client, overview, trainer, worker};
use quarry_coordinator::log::Record;
use quarry_coordinator::state::Change;
use quarry_service::ServiceChannel;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tonic::Code;

/// Everybody but the leader.
const OTHERS: [&str; 4] = ["standby", "trainer", "worker", "operator"];
/// A standby's patience, a caller's deadline, and some.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(30);
/// A stream that hangs on the old leader is found dead, and turned to the new one.
const FOLLOW_LIMIT: Duration = Duration::from_secs(60);

/// What a leader is cut off from.
#[derive(Debug, Clone, Copy)]
struct Loss {
    fault: Fault,
    from: &'static [&'static str],
    store: bool,
}

impl Loss {
    fn begin(self, world: &World) {
        world.note(format_args!("{self:?} begins"));
        self.from.iter().for_each(|b| self.fault.begin("leader", b));
        world.cut_store("leader", self.store);
    }

    fn end(self, world: &World) {
        world.note(format_args!("it ends"));
        self.from.iter().for_each(|b| self.fault.end("leader", b));
        world.cut_store("leader", false);
    }
}

fn urls() -> String {
    format!("{},{}", url("leader"), url("standby"))
}

struct Operator {
    world: World,
    client: Client,
    trainer: trainer::Link,
    heard: Heard,
}

impl Operator {
    async fn heard(&self, activations: &[u64]) {
        let started = Instant::now();
        while numbers(&self.heard) != activations {
            let heard = numbers(&self.heard);
            assert!(
                started.elapsed() < FOLLOW_LIMIT,
                "{heard:?}, not {activations:?}"
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn newest(&self) -> Activation {
        self.heard.lock().unwrap().last().unwrap().clone()
    }

    /// Waits until `epoch` is led, looking as `quarry status --watch` does.
    async fn led(&self, epoch: u64) -> Duration {
        let started = Instant::now();
        loop {
            let run = overview::look_within(&self.client, TAKE_OVER_LIMIT * 2).await;
            if run.unwrap().epoch >= epoch {
                return started.elapsed();
            }
            sleep(Duration::from_secs(2)).await;
        }
    }

    async fn play(self, loss: Loss) -> turmoil::Result {
        self.led(1).await;
        self.heard(&[1, 2]).await;
        sleep(PATIENCE * 2).await; // the standby has heard the leader, and nobody writes
        loss.begin(&self.world);
        let outbox = Outbox::start(&Handle::current(), self.trainer.clone());
        outbox.post(Letter::Swap {
            step: 3,
            activation: self.newest(),
        });
        outbox.post(Letter::Checkpoint {
            checkpoint: self.world.checkpoints[1].clone(),
            last: false,
        });
        let away = self.led(2).await;
        assert!(away < TAKE_OVER_LIMIT, "led again after {away:?}");
        outbox.flush(FOLLOW_LIMIT).await?;
        self.heard(&[1, 2, 3]).await;
        loss.end(&self.world);
        self.stands_by().await;
        self.unwritten_by_the_old_one(&self.world.records().await);
        let swaps = |change: &Change| matches!(change, Change::TrainerSwapped { .. });
        assert_eq!(self.world.count(swaps).await, 1);
        Ok(())
    }

    /// Waits until the old leader says that it is one no longer.
    async fn stands_by(&self) {
        let old = Client::new(ServiceChannel::lazy(&url("leader"), None).unwrap());
        let words = format!("standing by; the leader is at {}", url("standby"));
        let started = Instant::now();
        loop {
            let status = overview::look(&old).await.map(|run| run.epoch);
            match &status {
                Err(status) if status.message() == words => {
                    return assert_eq!(status.code(), Code::Unavailable);
                }
                _ => assert!(started.elapsed() < FOLLOW_LIMIT, "{status:?}"),
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn unwritten_by_the_old_one(&self, records: &[Record]) {
        for record in records {
            let writer = if record.epoch == 1 {
                "leader"
            } else {
                "standby"
            };
            assert!(
                record.epoch <= 2 && record.writer.starts_with(writer),
                "{record:?}"
            );
        }
        assert!(records.is_sorted_by_key(|record| record.epoch));
    }
}

fn lost(loss: Loss) {
    let world = World::prepare(2, Duration::from_secs(20));
    let mut sim = network(3).build();
    let heard = Heard::default();
    let (here, there) = (world.clone(), world.clone());
    sim.host("leader", move || serve("leader", here.clone(), true));
    sim.host("standby", move || serve("standby", there.clone(), false));
    let ear = Arc::clone(&heard);
    sim.host("trainer", move || listen(urls(), Arc::clone(&ear)));
    let there = world.clone();
    sim.host("worker", move || {
        let world = there.clone();
        async move {
            let link = worker::Link::new(&urls(), None, "worker-1".to_owned())?;
            work(world, link, Duration::from_secs(1)).await;
            Ok(())
        }
    });
    let there = world.clone();
    sim.client("operator", async move {
        let channel = ServiceChannel::lazy(&urls(), None)?;
        let operator = Operator {
            world: there,
            client: Client::new(channel.clone()),
            trainer: trainer::Link::new(channel),
            heard,
        };
        operator.play(loss).await
    });
    play(sim, &world);
}

#[test]
fn a_leader_that_is_cut_off_from_all_is_followed_by_the_standby_and_fenced() {
    for fault in [Fault::Lost, Fault::Late] {
        lost(Loss {
            fault,
            from: &OTHERS,
            store: true,
        });
    }
}

#[test]
fn a_leader_that_only_the_store_can_see_is_fenced_while_it_is_away() {
    for fault in [Fault::Lost, Fault::Late] {
        lost(Loss {
            fault,
            from: &OTHERS,
            store: false,
        });
    }
}

#[test]
fn a_leader_that_only_the_standby_cannot_see_sends_its_callers_there() {
    for fault in [Fault::Lost, Fault::Late] {
        lost(Loss {
            fault,
            from: &["standby"],
            store: false,
        });
    }
}

#[test]
fn a_leader_that_cannot_write_is_replaced() {
    lost(Loss {
        fault: Fault::Lost,
        from: &[],
        store: true,
    });
}
