//! The same seed gives the same losses to the last bit when the same
//! generations were active at the same steps, however often the trainer died.
//! Which ones were is in the version log, and a run can be repeated from it.
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
    repeated_and_killed(&STATIC);
}

#[test]
fn so_they_do_when_threads_share_the_batches_out() {
    // Eight questions with two passages each are more than the 512 tokens of two lanes.
    let shared = ["--set", "fleet.trainer_threads=2"];
    repeated_and_killed(&[&STATIC[..], &shared].concat());
}

fn repeated_and_killed(arguments: &[&str]) {
    let site = Site::new();
    let bits = |name: &str| {
        let _ = site.start(name, arguments).wait().succeeded();
        site.store(name).losses().assert_steps(STEPS);
        site.store(name).losses().bits()
    };
    let first = bits("first");
    assert_eq!(first, bits("second"), "two runs of one seed differ");

    let store = site.store("killed");
    let run = site.start("killed", arguments);
    run.wait_for("steps after a checkpoint", || {
        (store.newest_checkpoint() >= 30).then_some(())
    });
    run.kill("quarry-trainer");
    assert!(run.wait().refusal().contains("killed"));
    assert!(
        store.newest_checkpoint() < STEPS,
        "the run was over before the kill"
    );
    let _ = site.resume("killed", arguments).wait().succeeded();
    assert_eq!(
        store.losses().bits(),
        first,
        "killed and resumed, the run is another"
    );
}

#[test]
fn a_run_with_fresh_negatives_is_repeated_from_its_version_log() {
    let site = Site::new();
    let (first, again) = (site.store("first"), site.store("again"));
    let _ = site.start("first", &["--workers", "1"]).wait().succeeded();
    let (losses, steps) = (first.losses(), first.newest_checkpoint());
    assert!(
        losses.swaps().len() >= 3,
        "too few swaps to repeat: {}",
        losses.swaps().len()
    );
    let log = first.folder().join("versions.json");

    // Another fleet, another rhythm of checkpoints, and a trainer that dies after a swap.
    let other = [
        "--replay",
        log.to_str().unwrap(),
        "--workers",
        "2",
        "--set",
        "train.checkpoint_every=7",
        "--set",
        "refresh.when=never",
        "--set",
        "refresh.on_stale=off",
    ];
    let run = site.start("again", &other);
    run.wait_for("a swap to a dense generation", || {
        (!again.losses().swaps().is_empty() && again.newest_checkpoint() > 0).then_some(())
    });
    run.kill("quarry-trainer");
    assert!(run.wait().refusal().contains("killed"));
    assert!(
        again.newest_checkpoint() < steps,
        "the run was over before the kill"
    );
    let finished = site.resume("again", &[]).wait().succeeded();

    assert!(
        finished.stderr.contains("bit for bit"),
        "{}",
        finished.stderr
    );
    assert_eq!(again.losses().bits(), losses.bits());
    let weights = |store: &quarry_testkit::RunStore| {
        std::fs::read(store.checkpoint_folder(steps).join("model.safetensors")).unwrap()
    };
    assert!(weights(&again) == weights(&first), "other weights");
    again.assert_generations_complete();
}

#[test]
fn a_repetition_of_something_else_is_refused() {
    let site = Site::new();
    let _ = site.start("first", &STATIC).wait().succeeded();
    let log = site.store("first").folder().join("versions.json");
    let log = log.to_str().unwrap();
    let refused = |arguments: &[&str]| {
        let arguments = [&["--replay", log], &STATIC[..], arguments].concat();
        site.start("again", &arguments).wait().refusal().to_owned()
    };
    let said = refused(&["--set", "train.learning_rate=5e-4"]);
    assert!(said.contains("`train.learning_rate`"), "{said}");
    let weights = site.model().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last_float = bytes.len() - 4;
    bytes[last_float] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let said = refused(&[]);
    assert!(said.contains("the initial model is"), "{said}");
}
