//! The same seed gives the same losses to the last bit when the same
//! generations were active at the same steps, however often the trainer died.
#![allow(clippy::unwrap_used)]

use quarry_testkit::Site;

const STEPS: u64 = 200;

/// Negatives of generation 0 throughout: every run sees the same ones.
const STATIC: [&str; 6] = [
    "--set",
    "refresh.when=never",
    "--set",
    "refresh.on_stale=off",
    "--set",
    "train.max_steps=200",
];

#[test]
fn equal_seeds_give_equal_losses_and_a_killed_trainer_does_not_change_them() {
    let site = Site::new();
    let bits = |name: &str| {
        let _ = site.start(name, &STATIC).wait().succeeded();
        site.store(name).losses().assert_steps(STEPS);
        site.store(name).losses().bits()
    };
    let first = bits("first");
    assert_eq!(first, bits("second"), "two runs of one seed differ");

    let store = site.store("killed");
    let run = site.start("killed", &STATIC);
    run.wait_for("steps after a checkpoint", || {
        (store.newest_checkpoint() >= 30).then_some(())
    });
    run.kill("quarry-trainer");
    assert!(run.wait().refusal().contains("killed"));
    assert!(
        store.newest_checkpoint() < STEPS,
        "the run was over before the kill"
    );
    let _ = site.resume("killed", &STATIC).wait().succeeded();
    assert_eq!(
        store.losses().bits(),
        first,
        "killed and resumed, the run is another"
    );
}
