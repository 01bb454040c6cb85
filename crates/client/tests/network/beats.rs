//! A busy worker, of whom only heartbeats are heard, finds the coordinator that took
//! over long before its connection to the old one is known to be dead.

use crate::coordinator::{PATIENCE, serve, url};
use crate::fault::Fault;
use crate::work::work;
use crate::world::{World, network, play};
use quarry_client::{Client, overview, worker};
use quarry_service::ServiceChannel;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Shorter than it takes to notice a dead connection.
const LEASE: Duration = Duration::from_secs(10);
/// Longer than all the rest.
const TASK: Duration = Duration::from_secs(300);

fn urls() -> String {
    format!("{},{}", url("leader"), url("standby"))
}

async fn until_beaten(world: &World, host: &str, limit: Duration) {
    let (beat, started) = (format!("{host} answers Heartbeat"), Instant::now());
    while !world.trace().iter().any(|line| line.ends_with(&beat)) {
        assert!(started.elapsed() < limit, "{host} heard no heartbeat");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn lose_the_leader(world: World, fault: Fault) -> turmoil::Result {
    let client = Client::new(ServiceChannel::lazy(&urls(), None)?);
    until_beaten(&world, "leader", PATIENCE * 3).await;
    sleep(PATIENCE * 2).await; // the standby has heard the leader
    for other in ["standby", "worker", "operator"] {
        fault.begin("leader", other);
    }
    world.note(format_args!("the leader is away"));
    while overview::look_within(&client, PATIENCE * 8).await?.epoch < 2 {
        sleep(Duration::from_secs(1)).await;
    }
    until_beaten(&world, "standby", LEASE).await;
    Ok(())
}

#[test]
fn a_busy_worker_follows_a_take_over_by_its_heartbeats() {
    for fault in [Fault::Lost, Fault::Late] {
        let world = World::prepare(1, LEASE);
        let mut sim = network(4).build();
        let (here, there) = (world.clone(), world.clone());
        sim.host("leader", move || serve("leader", here.clone(), true));
        sim.host("standby", move || serve("standby", there.clone(), false));
        let there = world.clone();
        sim.host("worker", move || {
            let world = there.clone();
            async move {
                let link = worker::Link::new(&urls(), None, "worker-1".to_owned())?;
                work(world, link, TASK).await;
                Ok(())
            }
        });
        sim.client("operator", lose_the_leader(world.clone(), fault));
        play(sim, &world);
    }
}
