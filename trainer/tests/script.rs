//! A trainer that repeats a version log, against a stub of the coordinator.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_artifacts::{
    Cache, CheckpointOrigin, CheckpointRef, Digest, GenerationKind, VersionLog, VersionSwap,
    publish_checkpoint,
};
use quarry_service::channel;
use quarry_testkit::coordinator::{Script as Told, Stub};
use quarry_trainer::dataset::Dataset;
use quarry_trainer::feed::Source;
use quarry_trainer::link::Link;
use quarry_trainer::script::Script;
use std::sync::Arc;
use std::time::Duration;
use support::TinyRun;

/// Generation 0 from the start, and from step 8 on one of the checkpoint of step 5.
fn log(run: &TinyRun, model: &Digest) -> VersionLog {
    let swap = |step, generation, kind, checkpoint_step, checkpoint: &Digest| VersionSwap {
        step,
        generation,
        kind,
        checkpoint_step,
        checkpoint: checkpoint.clone(),
    };
    let initial = &run.run.initial_checkpoint.digest;
    VersionLog {
        version: VersionLog::VERSION,
        recipe: run.run.recipe.clone(),
        corpus: run.run.corpus.digest.clone(),
        initial: initial.clone(),
        swaps: vec![
            swap(0, 0, GenerationKind::Bm25, 0, initial),
            swap(8, 1, GenerationKind::Dense, 5, model),
        ],
        steps: 20,
        model: Digest::of(b"final"),
    }
}

fn script(run: &TinyRun, stub: &Stub, model: &Digest) -> Script {
    let cache = Cache::new(run.folder.path().join("cache"), 1 << 20).unwrap();
    let (store, corpus) = (&run.store, &run.run.corpus);
    let dataset = run.runtime.block_on(async {
        let dataset = Dataset::fetch(store, &cache, corpus, "train").await;
        Arc::new(dataset.unwrap())
    });
    let url = stub.url();
    let wait = Duration::from_secs(5);
    let connected = channel::connect_within("the stub", &url, None, wait);
    let link = Link::new(run.runtime.block_on(connected).unwrap());
    let source = Source {
        store: store.clone(),
        cache,
        dataset,
        drawn: 1,
        contrasts_own: false,
    };
    Script::new(log(run, model), link, source)
}

/// A checkpoint of step 5 in the store, of which nobody told the coordinator.
fn publish(run: &TinyRun) -> CheckpointRef {
    let folder = run.folder.path().join("step-5");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("model.safetensors"), b"weights").unwrap();
    let origin = CheckpointOrigin::default();
    let published = publish_checkpoint(&run.store, 5, &folder, origin);
    run.runtime.block_on(published).unwrap().reference()
}

#[test]
fn a_checkpoint_that_the_coordinator_never_heard_of_is_announced_again() {
    let run = TinyRun::new(|_| {});
    let told = Told::default();
    let stub = Stub::start(&told);
    let checkpoint = publish(&run);
    let script = script(&run, &stub, &checkpoint.digest);
    // Nobody makes the generation, so the wait is cut short.
    let waited = run.runtime.block_on(async {
        tokio::time::timeout(Duration::from_millis(500), script.negatives(2)).await
    });
    assert!(waited.is_err(), "the generation was never made");
    let heard = told.heard();
    let announced = heard.checkpoints.first().and_then(|c| c.checkpoint.clone());
    assert_eq!(announced, Some(checkpoint.into()));
    assert!(!heard.checkpoints[0].r#final);
}

#[test]
fn a_checkpoint_that_is_not_there_ends_the_replay_with_a_sentence() {
    let run = TinyRun::new(|_| {});
    let stub = Stub::start(&Told::default());
    let script = script(&run, &stub, &Digest::of(b"lost"));
    let Err(error) = run.runtime.block_on(script.negatives(2)) else {
        panic!("negatives of a lost checkpoint");
    };
    let said = format!("{error:#}");
    assert!(
        said.contains("the store has no checkpoints/00000005-"),
        "{said}"
    );
}

#[test]
fn other_weights_than_the_logs_are_refused() {
    let run = TinyRun::new(|_| {});
    let stub = Stub::start(&Told::default());
    let script = script(&run, &stub, &Digest::of(b"theirs"));
    let of = |step, model: &[u8]| CheckpointRef {
        step,
        digest: Digest::of(model),
        manifest: String::new(),
    };
    script.check(&of(5, b"theirs")).unwrap();
    script
        .check(&of(7, b"any: the log knows no other of step 7"))
        .unwrap();
    script.check(&of(20, b"final")).unwrap();
    for wrong in [of(5, b"ours"), of(20, b"ours")] {
        let said = script.check(&wrong).unwrap_err().to_string();
        assert!(said.contains("the version log has"), "{said}");
    }
    assert!(script.needs_checkpoint(5) && !script.needs_checkpoint(8));
    assert_eq!(script.activation_at(7), Some(1));
    assert_eq!((script.activation_at(8), script.step_of(2)), (Some(2), 8));
}
