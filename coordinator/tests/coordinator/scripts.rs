//! A run that repeats a version log makes the log's generations and no other.

use crate::fixture::{Bench, checkpoint, settings};
use quarry_artifacts::{Digest, GenerationKind, VersionLog, VersionSwap};
use quarry_coordinator::state::{Event, Settings};

/// (step, generation, step of its checkpoint)
fn scripted(swaps: &[(u64, u64, u64)]) -> Settings {
    let swap = |&(step, generation, checkpoint_step): &(u64, u64, u64)| VersionSwap {
        step,
        generation,
        kind: match generation {
            0 => GenerationKind::Bm25,
            _ => GenerationKind::Dense,
        },
        checkpoint_step,
        checkpoint: checkpoint(checkpoint_step).digest,
    };
    let log = VersionLog {
        version: VersionLog::VERSION,
        recipe: serde_json::Value::Null,
        corpus: Digest::of(b"corpus"),
        initial: checkpoint(0).digest,
        swaps: swaps.iter().map(swap).collect(),
        steps: 100,
        model: checkpoint(100).digest,
    };
    log.check().unwrap();
    Settings {
        script: Some(log),
        ..settings(|recipe| {
            recipe.refresh.keep_generations = 1;
            recipe.train.keep_checkpoints = 1;
        })
    }
}

#[test]
fn generations_stem_from_the_logs_checkpoints_and_not_from_the_newest() {
    // Generation 1 was superseded before the trainer took it.
    let mut bench = Bench::new(scripted(&[(0, 0, 0), (31, 2, 20), (55, 3, 30)]));
    assert_eq!(bench.open(), Some((0, 0)));
    bench.complete();
    assert_eq!(bench.open(), None, "no generation of step 0 in the log");
    bench.swap(0, 1).unwrap();
    bench.save(10);
    assert_eq!(bench.open(), None, "no generation of step 10 in the log");
    bench.save(20);
    bench.save(30);
    bench.save(40);
    assert_eq!(bench.open(), Some((1, 20)));
    bench.complete();
    assert_eq!(
        bench.open(),
        Some((2, 30)),
        "the checkpoint of step 30 was kept for it"
    );
    bench.complete();
    bench.save(90);
    assert_eq!(bench.open(), None, "the log ends");
}

#[test]
fn a_return_to_an_earlier_generation_is_repeated_and_survives_a_restart() {
    let mut bench = Bench::new(scripted(&[(0, 0, 0), (10, 1, 5), (20, 2, 15), (30, 1, 5)]));
    bench.complete();
    bench.swap(0, 1).unwrap();
    bench.save(5);
    bench.complete();
    bench.swap(10, 2).unwrap();
    bench.save(15);
    bench.restart();
    bench.complete();
    assert_eq!(
        bench.state.run.activations,
        [0, 1, 2, 1],
        "generation 1 was kept although keep_generations is 1"
    );
    bench.swap(20, 3).unwrap();
    bench.swap(30, 4).unwrap();
}

#[test]
fn other_weights_make_no_generation_and_nobody_may_roll_back() {
    let mut settings = scripted(&[(0, 0, 0), (10, 1, 5), (20, 2, 15)]);
    if let Some(log) = &mut settings.script {
        log.swaps[2].checkpoint = Digest::of(b"the weights of another machine");
    }
    let mut bench = Bench::new(settings);
    bench.complete();
    bench.save(5);
    bench.complete();
    bench.save(15);
    assert_eq!(bench.open(), None);
    let refused = bench.tell(Event::RollbackRequested { generation: 0 });
    assert!(refused.is_err());
}
