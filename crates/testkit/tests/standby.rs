//! Two coordinators on one run, started by hand as for several machines: each loses
//! the lead in the middle of a refresh, one suspended, one by `kill -9`, and trainer
//! and inferencer follow without a restart.
#![allow(clippy::unwrap_used)]

use quarry_testkit::{LEADS, Member, RunStore, Signal, Site};
use std::time::{Duration, Instant};

const STEPS: u64 = 120;
/// What is promised of a take-over.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(15);
/// Coordinators that are patient for 2 s.
const STANDBY: [&str; 3] = ["--standby", "--takeover-after", "2"];

/// Sets up a run in `store`: small shards and blocks, so that there is a middle of a
/// refresh.
fn prepare(site: &Site, store: &RunStore) {
    let (data, model, recipe) = (site.data(), site.model(), site.recipe());
    let steps = format!("train.max_steps={STEPS}");
    let inputs = [
        ("--data", &data),
        ("--model", &model),
        ("--recipe", &recipe),
    ];
    let mut command = vec!["prepare", "--store", store.url()];
    command.extend(
        inputs
            .iter()
            .flat_map(|(key, path)| [*key, path.to_str().unwrap()]),
    );
    for setting in ["data.shard_passages=4", "data.block_queries=8", &steps] {
        command.extend(["--set", setting]);
    }
    let _ = site.quarry(&command).succeeded();
}

/// Waits until `standby` has begun to lead for the `n`th time, since now.
fn assert_takes_over(standby: &Member, n: usize) {
    let began = Instant::now();
    standby.wait_until_said(LEADS, n);
    let took = began.elapsed();
    assert!(took < TAKE_OVER_LIMIT, "{took:?}");
}

#[test]
fn the_run_goes_on_under_one_leader_after_the_other() {
    let site = Site::new();
    let store = site.store("store");
    prepare(&site, &store);
    let (mut first, first_url) = Member::coordinator(&store, "coordinator-a", &STANDBY);
    first.wait_until_said(LEADS, 1);
    let (mut second, second_url) = Member::coordinator(&store, "coordinator-b", &STANDBY);
    let both = format!("{first_url},{second_url}");
    let start = |name, program| Member::client(&store, name, program, &both);
    let mut inferencer = start("inferencer-0", "quarry-inferencer");
    let mut trainer = start("trainer", "quarry-trainer");
    let refresh = |after: u64| {
        let open = || store.open_generation().filter(|g| *g > after);
        trainer.wait_for("a refresh", open)
    };

    // A leader that is suspended, and comes back as a zombie.
    let one = refresh(0);
    first.signal(Signal::Stop);
    assert_takes_over(&second, 1);
    first.signal(Signal::Continue);
    first.wait_until_said("standing by again", 1);

    // A leader that dies.
    let two = refresh(one);
    second.kill();
    assert_takes_over(&first, 2);

    trainer.assert_succeeds();
    inferencer.assert_succeeds();
    let status = ["status", "--json", "--coordinator", &both];
    let status = site.quarry(&status).succeeded().json();
    assert_eq!(
        (status["epoch"].as_u64(), status["finished"].as_bool()),
        (Some(3), Some(true))
    );
    first.signal(Signal::Interrupt);
    first.assert_succeeds();
    store.losses().assert_steps(STEPS);
    store.assert_generations_complete();
    let numbers: Vec<u64> = store.generations().iter().map(|g| g.generation).collect();
    let all: Vec<u64> = (0..numbers.len() as u64).collect();
    assert_eq!(numbers, all, "a generation was lost");
    assert!(two < numbers.len() as u64, "{numbers:?}");
}
