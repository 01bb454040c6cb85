//! `kill -9` of each program (law 2, law 4): the run goes on or is resumed, and
//! nothing that was published is incomplete.
#![allow(clippy::unwrap_used)]

use quarry_testkit::{Running, Site};

const STEPS: u64 = 90;

/// Small shards and blocks: many tasks, so that there is a middle to be killed in.
const MANY_TASKS: [&str; 4] = [
    "--set",
    "data.shard_passages=4",
    "--set",
    "data.block_queries=8",
];

/// Waits until a dense generation is being made, and returns its number.
fn wait_for_refresh(run: &Running) -> u64 {
    run.wait_for("a refresh", || {
        run.store().open_generation().filter(|g| *g > 0)
    })
}

#[test]
fn an_inferencer_and_the_coordinator_die_in_the_middle_of_a_refresh() {
    let site = Site::new();
    let run = site.start("store", &MANY_TASKS);
    let store = site.store("store");

    let first = wait_for_refresh(&run);
    let worker = run.kill("quarry-inferencer");
    assert!(
        store.generations().iter().all(|g| g.generation < first),
        "the refresh was over before the kill"
    );
    run.wait_for_restart("quarry-inferencer", worker);

    let second = run.wait_for("another refresh", || {
        store.open_generation().filter(|g| *g > first)
    });
    let coordinator = run.kill("quarry-coordinator");
    run.wait_for_restart("quarry-coordinator", coordinator);
    let finished = run.wait().succeeded();

    assert!(
        finished.stderr.contains("inferencer-0 ended with"),
        "{}",
        finished.stderr
    );
    assert!(
        finished.stderr.contains("coordinator ended with"),
        "{}",
        finished.stderr
    );
    store.assert_generations_complete();
    let numbers: Vec<u64> = store.generations().iter().map(|g| g.generation).collect();
    assert!(
        numbers.contains(&first),
        "generation {first} was lost with its worker: {numbers:?}"
    );
    assert!(
        numbers.iter().any(|g| *g >= second),
        "no generation after the coordinator's death: {numbers:?}"
    );
    store.losses().assert_steps(STEPS);
}

#[test]
fn a_killed_trainer_goes_on_from_its_last_checkpoint() {
    let site = Site::new();
    let store = site.store("store");
    let run = site.start("store", &[]);
    run.wait_for("steps after a checkpoint", || {
        let newest = store.newest_checkpoint();
        (newest >= 20 && store.losses().0.len() as u64 > newest + 2).then_some(())
    });
    run.kill("quarry-trainer");
    let finished = run.wait();
    let refusal = finished.refusal();
    assert!(
        refusal.contains("the trainer was killed") && refusal.contains("--resume"),
        "{refusal}"
    );
    let (newest, taken) = (store.newest_checkpoint(), store.losses().0.len() as u64);
    assert!(taken < STEPS, "the run was over before the kill");
    store.assert_generations_complete();

    let _ = site.resume("store", &[]).wait().succeeded();
    let resumed = format!("step={newest} total={STEPS}");
    let log = store.log("trainer");
    assert!(
        log.lines()
            .any(|l| l.contains("resumed") && l.contains(&resumed)),
        "not `{resumed}`:\n{log}"
    );
    store.losses().assert_steps(STEPS);
    assert_eq!(store.newest_checkpoint(), STEPS);
    store.assert_generations_complete();
}

#[test]
fn inferencers_share_a_refresh_and_the_others_take_over_from_one_that_dies() {
    let site = Site::new();
    let store = site.store("store");
    let run = site.start("store", &[&MANY_TASKS[..], &["--workers", "3"]].concat());
    let open = wait_for_refresh(&run);
    let _ = run.kill("quarry-inferencer");
    assert!(
        store.generations().iter().all(|g| g.generation < open),
        "the refresh was over before the kill"
    );
    run.wait_for("three inferencers again", || {
        let processes = run.processes();
        let inferencers = processes
            .iter()
            .filter(|p| p.program == "quarry-inferencer");
        (inferencers.count() == 3).then_some(())
    });
    let _ = run.wait().succeeded();
    for worker in ["inferencer-0", "inferencer-1", "inferencer-2"] {
        let log = store.log(worker);
        assert!(log.contains("task done"), "{worker} did nothing:\n{log}");
    }
    let numbers: Vec<u64> = store.generations().iter().map(|g| g.generation).collect();
    assert!(
        numbers.contains(&open),
        "generation {open} was lost with a worker: {numbers:?}"
    );
    store.assert_generations_complete();
    store.losses().assert_steps(STEPS);
}
