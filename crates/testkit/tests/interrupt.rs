//! Ctrl-C: an orderly stop that loses no step, and `--resume` after it.
#![allow(clippy::unwrap_used)]

use quarry_testkit::{Site, processes_naming};

#[test]
fn ctrl_c_stops_everything_and_resume_finishes() {
    let site = Site::new();
    let store = site.store("store");
    let run = site.start("store", &[]);
    run.wait_for("steps after a checkpoint", || {
        let newest = store.newest_checkpoint();
        (newest >= 10 && store.losses().0.len() as u64 > newest).then_some(())
    });
    assert_eq!(run.processes().len(), 4, "{:?}", run.processes());
    run.interrupt();
    let finished = run.wait();

    assert_eq!(finished.code, Some(130), "{}", finished.stderr);
    assert!(
        finished.stderr.lines().last().unwrap().contains("--resume"),
        "{}",
        finished.stderr
    );
    assert_eq!(processes_naming(store.folder()), [], "left behind");
    let taken = store.losses().0.len() as u64;
    assert!(taken < 90, "the run was over before Ctrl-C");
    assert_eq!(store.newest_checkpoint(), taken, "the stop lost steps");
    store.assert_generations_complete();

    let other = site.resume("store", &["--set", "train.learning_rate=0.5"]);
    let refused = other.wait();
    let said = refused.refusal();
    assert!(
        said.contains("train.learning_rate (0.5 here, 0.001 in the run)"),
        "{said}"
    );

    let finished = site.resume("store", &[]).wait().succeeded();
    assert!(finished.stdout.contains("final"), "{}", finished.stdout);
    store.losses().assert_steps(90);
    assert_eq!(store.newest_checkpoint(), 90);
    assert_eq!(processes_naming(store.folder()), [], "left behind");
}

#[test]
fn ctrl_c_before_the_first_step_leaves_nothing_behind() {
    let site = Site::new();
    let store = site.store("store");
    let run = site.start("store", &[]);
    run.wait_for("trainer", || run.process("quarry-trainer"));
    run.interrupt();
    let finished = run.wait();
    assert_eq!(finished.code, Some(130), "{}", finished.stderr);
    assert_eq!(processes_naming(store.folder()), [], "left behind");
}

#[test]
fn ctrl_c_lets_every_inferencer_end_in_order() {
    let site = Site::new();
    let store = site.store("store");
    let run = site.start(
        "store",
        &[
            "--set",
            "data.shard_passages=4",
            "--set",
            "data.block_queries=8",
        ],
    );
    run.wait_for("a refresh", || {
        store.open_generation().filter(|generation| *generation > 0)
    });
    run.interrupt();
    assert_eq!(run.wait().code, Some(130));
    let log = store.log("inferencer-0");
    assert!(
        log.contains("worker ends") && !log.contains("second signal, exiting"),
        "{log}"
    );
}
