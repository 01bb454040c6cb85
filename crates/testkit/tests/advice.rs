//! The last sentence of a failed command advises what helps, and nothing that does
//! not.
#![allow(clippy::unwrap_used)]

use quarry_testkit::Site;

#[test]
fn a_store_that_keeps_nothing_is_refused_for_one_that_does() {
    let site = Site::new();
    let (data, model) = (site.data(), site.model());
    let prepare = [
        "prepare",
        "--data",
        data.to_str().unwrap(),
        "--model",
        model.to_str().unwrap(),
        "--store",
        "memory:",
        "--set",
        "model.query_length=32",
        "--set",
        "train.passage_length=48",
    ];
    let refused = site.quarry(&prepare);
    let said = refused.refusal();
    assert!(
        said.contains("a store in memory") && said.contains("give --store a folder"),
        "{said}"
    );
}

#[test]
fn a_step_that_would_fail_again_is_not_to_be_repeated() {
    let site = Site::new();
    let blown_up = [
        "--set",
        "train.learning_rate=1e30",
        "--set",
        "train.warmup_ratio=0.0",
    ];
    let refused = site.start("store", &blown_up).wait();
    let said = refused.refusal();
    for words in ["--resume would repeat it", "is kept in"] {
        assert!(said.contains(words), "`{words}` is not in: {said}");
    }
    assert!(!said.contains("go on with"), "{said}");
}
