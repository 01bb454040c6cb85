//! A run whose programs are killed and stopped at random ends with the weights of
//! its own replay, in which nothing fails.
#![allow(clippy::unwrap_used)]

use quarry_testkit::chaos::{Schedule, Target};
use quarry_testkit::{RunStore, Site};
use std::time::Duration;

const STEPS: u64 = 400;

fn weights(store: &RunStore) -> Vec<u8> {
    std::fs::read(store.checkpoint_folder(STEPS).join("model.safetensors")).unwrap()
}

#[test]
fn a_run_through_faults_ends_with_the_weights_of_its_own_replay() {
    let site = Site::new();
    let target = Target {
        recipe: site.recipe(),
        data: site.data(),
        model: site.model(),
        arguments: [
            "--set",
            "train.max_steps=400",
            "--set",
            "train.checkpoint_every=8",
        ]
        .map(str::to_owned)
        .to_vec(),
        limit: Duration::from_secs(120),
    };
    let schedule = Schedule {
        seed: 33, // two kills of the trainer among the ten faults
        faults: 10,
        gap: (Duration::from_millis(50), Duration::from_millis(500)),
        pause: Duration::from_secs(6), // the lease is 5 s
    };
    let store = site.store("store");
    let mut log = Vec::new();
    let faults = target.run_through(&store, &schedule, &mut log);
    eprint!("{}", String::from_utf8(log).unwrap());
    let trainers = faults
        .iter()
        .filter(|f| f.program == "quarry-trainer" && f.kind == "kill");
    assert_eq!((faults.len(), trainers.count()), (10, 2));
    store.losses().assert_steps(STEPS);
    store.assert_generations_complete();

    let again = site.store("again");
    let versions = store.folder().join("versions.json");
    let replay = ["--replay", versions.to_str().unwrap()];
    let _ = target.start(&again, false, &replay).wait().succeeded();
    assert_eq!(again.losses().bits(), store.losses().bits());
    assert!(weights(&again) == weights(&store), "other weights");
}
