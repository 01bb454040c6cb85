//! A busy worker, of whom only heartbeats are heard: one that is lost costs no lease, and they
//! find the coordinator that took over long before the connection to the old one is known to
//! be dead.

use crate::coordinator::{PATIENCE, serve, url};
use crate::fault::Fault;
use crate::work::work;
use crate::world::{World, network, play};
use quarry_client::worker::Link;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use turmoil::Sim;

const LEASE: Duration = Duration::from_secs(10);
/// Shorter than the 25 s after its last word at which a dead connection is known to be one.
const LIMIT: Duration = Duration::from_secs(24);
/// Longer than all the rest.
const TASK: Duration = Duration::from_secs(300);

/// Waits until the trace has `times` lines that end with `line`.
async fn until_noted(world: &World, line: &str, times: usize) {
    let started = Instant::now();
    while world.trace().iter().filter(|l| l.ends_with(line)).count() < times {
        assert!(started.elapsed() < LIMIT, "not {times} times: {line}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// A host on which a worker calls the coordinators of `urls`.
fn worker(sim: &mut Sim<'_>, world: &World, urls: String) {
    let world = world.clone();
    sim.host("worker", move || {
        let (world, urls) = (world.clone(), urls.clone());
        async move {
            let link = Link::new(&urls, None, "worker-1".to_owned())?;
            work(world, link, TASK).await;
            Ok(())
        }
    });
}

async fn lose_the_leader(world: World, fault: Fault) -> turmoil::Result {
    until_noted(&world, "leader answers Heartbeat", 1).await;
    sleep(PATIENCE * 2).await; // the standby has heard the leader
    for other in ["standby", "worker"] {
        fault.begin("leader", other);
    }
    world.note(format_args!("the leader is away"));
    until_noted(&world, "standby answers Heartbeat", 1).await;
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
        let urls = format!("{},{}", url("leader"), url("standby"));
        worker(&mut sim, &world, urls);
        sim.client("operator", lose_the_leader(world.clone(), fault));
        play(sim, &world);
    }
}

async fn lose_a_heartbeat(world: World) -> turmoil::Result {
    world.traps.swallow("Heartbeat");
    until_noted(&world, "leader answers AcquireLease", 1).await;
    let leased = Instant::now();
    until_noted(&world, "leader hears Heartbeat", 2).await;
    assert!(leased.elapsed() < LEASE, "the second one came too late");
    Ok(())
}

#[test]
fn a_heartbeat_that_is_lost_is_followed_by_another_while_the_lease_lasts() {
    let world = World::prepare(1, LEASE);
    let mut sim = network(5).build();
    let here = world.clone();
    sim.host("leader", move || serve("leader", here.clone(), true));
    worker(&mut sim, &world, url("leader"));
    sim.client("operator", lose_a_heartbeat(world.clone()));
    play(sim, &world);
}
