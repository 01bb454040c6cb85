//! A whole run, from BM25 to the last checkpoint, on a network that loses and delays
//! at random: the log tells of each thing once, and the same seed of the same run.

use crate::coordinator::{serve, url};
use crate::work::work;
use crate::world::{World, network, play};
use quarry_client::outbox::{Letter, Outbox};
use quarry_client::{Activation, follow, trainer, worker};
use quarry_coordinator::state::Change;
use quarry_service::channel;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

const SEEDS: Range<u64> = 0..50;
const CHECKPOINTS: u64 = 3;
/// The network is bad all the time, but not for ever.
const PATIENCE: Duration = Duration::from_secs(1200);

fn urls() -> String {
    format!("{},{}", url("leader"), url("standby"))
}

/// The seeds asked for with `QUARRY_NETWORK_SEEDS=from..to`.
fn seeds() -> Range<u64> {
    let Ok(asked) = std::env::var("QUARRY_NETWORK_SEEDS") else {
        return SEEDS;
    };
    let (from, to) = asked
        .split_once("..")
        .expect("QUARRY_NETWORK_SEEDS is from..to");
    from.parse().unwrap()..to.parse().unwrap()
}

/// Takes steps that need no time: a swap at each activation and a checkpoint after
/// it, until the last.
async fn train(world: World) -> turmoil::Result {
    let urls = urls();
    let channel = channel::connect_within("the coordinator", &urls, None, PATIENCE).await?;
    let link = trainer::Link::new(channel);
    link.greet(PATIENCE).await?;
    let outbox = Outbox::start(&Handle::current(), link.clone());
    let (announce, mut announced) = watch::channel(None);
    tokio::spawn(follow(link, 0, announce));
    let mut step = 0;
    for place in 1..world.checkpoints.len() {
        let wait = tokio::time::timeout(PATIENCE, announced.changed());
        wait.await??;
        let activation: Activation = announced.borrow_and_update().clone().ok_or("nothing")?;
        let (number, checkpoint) = (activation.activation, world.checkpoints[place].clone());
        world.note(format_args!("the trainer hears of activation {number}"));
        outbox.post(Letter::Swap { step, activation });
        step = checkpoint.step;
        let last = place + 1 == world.checkpoints.len();
        outbox.post(Letter::Checkpoint { checkpoint, last });
        outbox.flush(PATIENCE).await?;
        world.note(format_args!("the trainer is at step {step}"));
    }
    Ok(())
}

async fn toil(world: World, name: &'static str) -> turmoil::Result {
    let link = worker::Link::new(&urls(), None, name.to_owned())?;
    work(world, link, Duration::from_secs(3)).await;
    Ok(())
}

/// Plays a run on the network of `seed`; returns the world after it.
fn whole_run(seed: u64) -> World {
    let world = World::prepare(CHECKPOINTS + 1, Duration::from_secs(20));
    let mut sim = network(seed)
        .max_message_latency(Duration::from_millis(400))
        .fail_rate(0.01)
        .repair_rate(0.2)
        .build();
    for (host, leads) in [("leader", true), ("standby", false)] {
        let here = world.clone();
        sim.host(host, move || serve(host, here.clone(), leads));
    }
    sim.client("trainer", train(world.clone()));
    sim.client("worker-1", toil(world.clone(), "worker-1"));
    sim.client("worker-2", toil(world.clone(), "worker-2"));
    play(sim, &world);
    world
}

/// Over the log: everything happened once, and in order. Returns how many
/// coordinators led.
fn check(world: &World) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let records = runtime.unwrap().block_on(world.records());
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let (mut activations, mut swaps) = (Vec::new(), Vec::new());
    for change in records.iter().flat_map(|record| &record.changes) {
        let what = match change {
            Change::TaskCompleted {
                generation, task, ..
            } => format!("task {task} of {generation}"),
            Change::CheckpointPublished { checkpoint, .. } => {
                format!("checkpoint {}", checkpoint.step)
            }
            Change::GenerationPublished { activation, .. } => {
                activations.push(*activation);
                continue;
            }
            Change::TrainerSwapped { step, .. } => {
                swaps.push(*step);
                continue;
            }
            _ => continue,
        };
        *seen.entry(what).or_default() += 1;
    }
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let risen: Vec<u64> = (1..=activations.len() as u64).collect();
    assert_eq!(activations, risen);
    let steps: Vec<u64> = (0..CHECKPOINTS).map(|i| 10 * i).collect();
    assert_eq!(swaps, steps);
    assert!(records.is_sorted_by_key(|record| record.epoch));
    records.last().unwrap().epoch
}

#[test]
fn a_run_on_a_bad_network_is_a_run() {
    let mut changes = 0;
    for seed in seeds() {
        eprintln!(
            "seed {seed}, alone with QUARRY_NETWORK_SEEDS={seed}..{}",
            seed + 1
        );
        changes += check(&whole_run(seed)) - 1;
    }
    eprintln!("{changes} changes of leader");
    assert!(changes > 0 || seeds() != SEEDS, "the network is too good");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let traces = [1, 1, 2].map(|seed| whole_run(seed).trace());
    assert!(traces[0].len() > 100);
    let differs = traces[0].iter().zip(&traces[1]).position(|(a, b)| a != b);
    let at = differs.map(|i| (&traces[0][i], &traces[1][i]));
    assert_eq!(at, None);
    assert_eq!(traces[0].len(), traces[1].len());
    assert_ne!(traces[0], traces[2]);
}
