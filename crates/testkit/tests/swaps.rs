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
    // What a swap adds to its step: the wait for the first batch of the new generation.
    // The median, because any one wait may be the scheduler's on a busy machine.
    let mut waits: Vec<f64> = swaps.iter().map(|swap| swap.idle_ms).collect();
    waits.sort_by(f64::total_cmp);
    let median = waits[waits.len() / 2];
    assert!(
        median <= typical,
        "half the swaps waited {median:.1} ms or more for a batch, a step takes {typical:.1} ms: {waits:.1?}"
    );
    assert!(!log.contains("training waits"), "{log}");
}
