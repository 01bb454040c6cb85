//! One whole run on a tiny collection, and everything a user does with it.
#![allow(clippy::unwrap_used)]

use quarry_testkit::{Site, StepLine};
use serde_json::Value;

const METRICS: [&str; 3] = ["mrr@10", "ndcg@10", "recall@100"];

#[test]
fn a_run_trains_publishes_generations_and_its_model_can_be_used() {
    let site = Site::new();
    let run = site.start("store", &["--json"]);
    let url = run.coordinator();
    run.wait_for("first generation", || {
        (!run.store().generations().is_empty()).then_some(())
    });
    follow(&site, &url);
    let finished = run.wait().succeeded();
    let store = site.store("store");

    assert!(store.generations().len() > 3, "{:?}", store.generations());
    store.assert_generations_complete();
    store.losses().assert_steps(90);
    training_helped(&store.losses().0);
    assert_eq!(store.newest_checkpoint(), 90);
    verdict(&finished.json());
    search(&site, store.url());
    export(&site, store.url());
}

/// `status` and `generations` while the run goes on.
fn follow(site: &Site, url: &str) {
    let status = site
        .quarry(&["status", "--coordinator", url, "--json"])
        .succeeded()
        .json();
    assert_eq!(status["name"], "tiny");
    assert_eq!(status["epoch"], 1);
    assert!(status["active"]["generation"].is_u64(), "{status}");
    let text = site
        .quarry(&["status", "--coordinator", url])
        .succeeded()
        .stdout;
    assert!(text.starts_with("tiny: "), "{text}");
    let listed = site
        .quarry(&["generations", "--coordinator", url, "--json"])
        .succeeded()
        .json();
    let first = &listed["generations"][0];
    assert_eq!(
        (&first["generation"], &first["kind"]),
        (&0.into(), &"bm25".into()),
        "{listed}"
    );
    assert!(
        first["metrics"]["dev/mrr@10"]
            .as_f64()
            .is_some_and(|v| v > 0.5),
        "{listed}"
    );
}

/// What `run --json` prints at the end.
fn verdict(verdict: &Value) {
    let scores = verdict["scores"].as_array().unwrap();
    let named = |name: &str, split: &str| {
        scores
            .iter()
            .find(|s| s["system"].as_str().unwrap().starts_with(name) && s["split"] == split)
            .unwrap_or_else(|| panic!("no score of {name} on {split}: {verdict}"))
    };
    for score in [
        named("bm25", "dev"),
        named("zero-shot", "dev"),
        named("final", "dev"),
        named("final", "test"),
    ] {
        for metric in METRICS {
            let value = score["metrics"][metric].as_f64().unwrap();
            assert!(value > 0.0 && value <= 1.0, "{metric} of {score}");
        }
    }
}

/// Twenty questions of dev cannot tell whether ninety steps helped; the losses can.
fn training_helped(steps: &[StepLine]) {
    let mean = |steps: &[StepLine]| {
        let sum: f64 = steps.iter().map(|step| step.loss).sum();
        sum / steps.len() as f64
    };
    let (first, last) = (mean(&steps[..15]), mean(&steps[75..]));
    assert!(last < 0.8 * first, "{first}, then {last}");
}

fn search(site: &Site, store: &str) {
    let question = "In what country is Normandy located?";
    for generation in [&[][..], &["--generation", "0"]] {
        let arguments = [
            &["search", "--store", store, "-k", "5", "--json", question],
            generation,
        ]
        .concat();
        let found = site.quarry(&arguments).succeeded().json();
        let hits = found["hits"].as_array().unwrap();
        assert_eq!(hits.len(), 5, "{found}");
        let scores: Vec<f64> = hits
            .iter()
            .map(|hit| hit["score"].as_f64().unwrap())
            .collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        assert!(hits.iter().any(|hit| hit["id"] == "Normans#0"), "{found}");
    }
}

fn export(site: &Site, store: &str) {
    let mut scores = Vec::new();
    for checkpoint in ["last", "best", "10"] {
        let folder = site.path(checkpoint);
        let output = folder.to_str().unwrap();
        let export = [
            "export",
            "--store",
            store,
            "--checkpoint",
            checkpoint,
            "--output",
            output,
        ];
        let _ = site.quarry(&export).succeeded();
        let refused = site.quarry(&export);
        assert!(refused.refusal().contains("exists already"));
        let data = site.data();
        let eval = [
            "eval",
            "--model",
            output,
            "--data",
            data.to_str().unwrap(),
            "--split",
            "dev",
            "--json",
        ];
        let measured = site
            .quarry(&[&eval[..], &["--query-length", "32"]].concat())
            .succeeded()
            .json();
        assert_eq!(measured["queries"], 20);
        assert!(
            METRICS.iter().all(|metric| measured[metric].is_f64()),
            "{measured}"
        );
        scores.push(measured["mrr@10"].as_f64().unwrap());
    }
    assert!(
        scores[1] >= scores[2],
        "best is worse than step 10: {scores:?}"
    );
}
