//! The strokes of fate: deaths, freezes, partitions, rival coordinators, and an
//! operator who rolls back and pauses.

use crate::cluster::Cluster;
use crate::network::Link;
use crate::process::{Process, Reach};
use crate::world::World;
use std::sync::Arc;

/// Strikes until the storm is over.
pub async fn storm(cluster: &Arc<Cluster>, rolls_back: bool) {
    let world = &cluster.world;
    let operator = Link::new(cluster, &Process::new(world, "operator".to_owned()));
    let mean = world.weather.stroke_ms;
    while world.now() < world.weather.storm_ms {
        world.pass(mean / 4..mean * 2).await;
        match world.between(0..100) {
            0..18 => freeze(cluster),
            18..36 => cut_off(cluster),
            36..50 => kill(world, &cluster.roster.of("worker")),
            50..62 => kill(world, &cluster.roster.of("coordinator")),
            62..68 => kill(world, &cluster.roster.of("trainer")),
            68..78 => rival(cluster),
            78..86 => usurp(cluster),
            86..92 if rolls_back => {
                let kept = cluster.audit.read(|books| books.ledger.kept());
                if !kept.is_empty() {
                    let generation = *world.one_of(&kept);
                    world.note(format_args!("operator wants generation {generation}"));
                    let _ = operator.roll_back(generation).await; // it may be gone by then
                }
            }
            _ => {
                let paused = world.chance(0.4);
                world.note(format_args!("operator pauses: {paused}"));
                let _ = operator.pause(paused).await;
            }
        }
    }
}

/// Undoes what the storm left.
pub fn clear_up(cluster: &Cluster) {
    cluster.world.calm_down();
    for process in cluster.roster.of("") {
        process.heal();
    }
}

fn someone(cluster: &Cluster) -> Option<Arc<Process>> {
    let kinds = ["coordinator", "coordinator", "worker", "trainer"];
    let all = cluster.roster.of(cluster.world.one_of::<&str>(&kinds));
    (!all.is_empty()).then(|| Arc::clone(cluster.world.one_of(&all)))
}

fn kill(world: &World, some: &[Arc<Process>]) {
    if !some.is_empty() {
        let process = world.one_of(some);
        world.note(format_args!("kill {}", process.name));
        process.kill();
    }
}

/// From a garbage collection to a laptop's lid.
fn duration(world: &World) -> u64 {
    let long = *world.one_of(&[2_000, 12_000, 60_000]);
    world.between(500..long)
}

fn freeze(cluster: &Cluster) {
    if let Some(process) = someone(cluster) {
        let ms = duration(&cluster.world);
        let name = &process.name;
        cluster
            .world
            .note(format_args!("freeze {name} for {ms} ms"));
        process.freeze(ms);
    }
}

fn cut_off(cluster: &Cluster) {
    if let Some(process) = someone(cluster) {
        let ms = duration(&cluster.world);
        let from = *cluster.world.one_of(&[Reach::Store, Reach::Network]);
        let name = &process.name;
        cluster
            .world
            .note(format_args!("cut {name} off {from:?} for {ms} ms"));
        process.cut_off(from, ms);
    }
}

/// Another coordinator is started while one lives, or stands by.
fn rival(cluster: &Arc<Cluster>) {
    if cluster.roster.of("coordinator").len() < 3 {
        let patience = cluster.world.between(2..20);
        let patience = cluster.world.chance(0.5).then_some(patience);
        cluster.start(patience);
    }
}

/// A coordinator freezes, another takes over, and the first one wakes up: a zombie.
fn usurp(cluster: &Arc<Cluster>) {
    let all = cluster.roster.of("coordinator");
    if all.is_empty() || all.len() > 2 {
        return;
    }
    let zombie = cluster.world.one_of(&all);
    let ms = cluster.world.between(1_000..30_000);
    let name = &zombie.name;
    cluster
        .world
        .note(format_args!("{name} becomes a zombie for {ms} ms"));
    zombie.freeze(ms);
    cluster.start(None);
}
