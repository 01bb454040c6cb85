//! Law 5: the trainer does not stop for a new generation.
#![allow(clippy::unwrap_used)]

use quarry_testkit::Site;

/// Free running, with steps long enough to be measured.
const FREE: [&str; 14] = [
    "--set",
    "refresh.max_staleness=0",
    "--set",
    "train.batch_size=64",
    "--set",
    "train.negatives=3",
    "--set",
    "train.passage_length=64",
    "--set",
    "train.max_steps=400",
    "--set",
    "train.checkpoint_every=20",
    "--set",
    "train.learning_rate=1e-4",
];

#[test]
fn a_swap_costs_no_more_than_one_step() {
    let site = Site::new();
    let _ = site.start("store", &FREE).wait().succeeded();
    let store = site.store("store");
    let losses = store.losses();
    losses.assert_steps(400);
    let (swaps, typical) = (losses.swaps(), losses.median_step_ms());
    assert!(
        swaps.len() >= 3,
        "only {} swaps while training went on",
        swaps.len()
    );
    let log = store.log("trainer");
    let said = log
        .lines()
        .filter(|line| line.contains("switched negatives") && line.contains("swap_ms"))
        .count();
    assert!(
        said >= swaps.len(),
        "the log does not show every swap:\n{log}"
    );
    for swap in &swaps {
        // What the swap added to its step: the wait for the first batch of the new generation.
        assert!(
            swap.idle_ms <= typical,
            "step {}: waited {:.1} ms for its batch, a step takes {typical:.1} ms",
            swap.step,
            swap.idle_ms
        );
    }
    assert!(!log.contains("training waits"), "{log}");
}
