//! Swaps, rollbacks, a coordinator that goes away, refusals and staleness.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_artifacts::Digest;
use quarry_proto::v1::{PublishCheckpointRequest, Refusal, WatchGenerationsResponse};
use quarry_recipe::{OnStale, Recipe};
use quarry_service::CancellationToken;
use quarry_testkit::coordinator::{Script, Stub};
use quarry_trainer::options::Options;
use quarry_trainer::run::{LASTING_EXIT, exit_code, run_until};
use std::time::{Duration, Instant};
use support::{QUERIES, TinyRun, all_others, turn};

/// Trains in a thread of its own while `meanwhile` acts; true if training succeeded.
fn train_while(
    run: &TinyRun,
    options: &Options,
    stop: &CancellationToken,
    meanwhile: impl FnOnce(),
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let training = scope.spawn(|| run_until(options, &run.runtime, stop));
        // A failed check must end the training too, or the scope waits for ever.
        let guard = stop.clone().drop_guard();
        meanwhile();
        guard.disarm();
        training.join().unwrap()
    })
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn endless(recipe: &mut Recipe) {
    recipe.train.max_steps = 1_000_000;
    recipe.train.learning_rate = 1e-4;
}

fn generations(script: &Script) -> Vec<u64> {
    script
        .heard()
        .swaps
        .iter()
        .map(|swap| swap.generation)
        .collect()
}

/// The generations that the trainer said it cannot use, as often as it said so.
fn refusals(script: &Script) -> Vec<Refusal> {
    let heard = script.heard();
    let told = heard.progress.iter().filter_map(|p| p.refusal.clone());
    told.collect()
}

#[test]
fn swaps_and_rollbacks_happen_at_step_boundaries_and_are_reported() {
    let _turn = turn();
    let run = TinyRun::new(endless);
    let first = run.generation(1, 0, all_others);
    let second = run.generation(2, 1, |q| all_others(q)[10..].to_vec());
    let rollback = WatchGenerationsResponse {
        activation: 3,
        ..first.clone()
    };
    let script = Script::default();
    let stub = Stub::start(&script);
    let stop = CancellationToken::new();
    train_while(&run, &run.options(&stub.url()), &stop, || {
        std::thread::sleep(Duration::from_millis(300)); // It waits for generation 0.
        script.announce(&first);
        until("the first swap", || run.lines().len() > 5);
        script.announce(&second);
        until("the second swap", || generations(&script) == [0, 1]);
        script.announce(&rollback);
        until("the rollback", || generations(&script) == [0, 1, 0]);
        // An activation that does not rise is ignored.
        script.announce(&second);
        let seen = run.lines().len();
        until("some more steps", || run.lines().len() > seen + 20);
        stop.cancel();
    })
    .unwrap();
    let heard = script.heard();
    assert_eq!(
        heard
            .swaps
            .iter()
            .map(|s| (s.activation, s.generation))
            .collect::<Vec<_>>(),
        [(1, 0), (2, 1), (3, 0)]
    );
    let generation_at = |step: u64| {
        heard
            .swaps
            .iter()
            .rev()
            .find(|swap| swap.step <= step)
            .map(|swap| swap.generation)
    };
    let lines = run.lines();
    assert!(
        lines
            .iter()
            .all(|line| Some(line.generation) == generation_at(line.step))
    );
    assert!(
        lines
            .iter()
            .enumerate()
            .all(|(at, line)| line.step == at as u64)
    );
    assert!(!heard.checkpoints.last().unwrap().r#final);
    assert!(
        heard
            .progress
            .iter()
            .any(|progress| progress.total_steps == 1_000_000)
    );
}

#[test]
fn the_coordinator_may_die_and_come_back() {
    let _turn = turn();
    let run = TinyRun::new(endless);
    let script = Script::default();
    script.announce(&run.generation(1, 0, all_others));
    let stub = Stub::start(&script);
    let second = run.generation(2, 1, all_others);
    let (addr, options, stop) = (
        stub.addr,
        run.options(&stub.url()),
        CancellationToken::new(),
    );
    train_while(&run, &options, &stop, || {
        until("training", || run.lines().len() > 5);
        drop(stub);
        let seen = run.lines().len();
        until("training without a coordinator", || {
            run.lines().len() > seen + 20
        });
        let _stub = Stub::start_at(addr, &script, None);
        script.announce(&second);
        until("the swap after the restart", || {
            generations(&script) == [0, 1]
        });
        assert_eq!(
            script.heard().watched_after.last(),
            Some(&1),
            "the stream is resumed"
        );
        stop.cancel();
        until("the last checkpoint", || {
            !script.heard().checkpoints.is_empty()
        });
        std::thread::sleep(Duration::from_millis(200));
    })
    .unwrap();
}

#[test]
fn a_generation_that_does_not_fit_is_refused() {
    let _turn = turn();
    let run = TinyRun::new(|_| {});
    let digest = run.run.corpus.digest.clone();
    let foreign = Digest::of(b"another corpus");
    let cases = [
        (
            run.generation_of(1, 1, QUERIES - 3, &digest, all_others),
            "cover 17 of the 20 training queries",
        ),
        (
            run.generation_of(1, 2, QUERIES, &foreign, all_others),
            "was mined from corpus",
        ),
        (
            run.generation_of(1, 3, QUERIES, &digest, |_| vec![4000]),
            "negative 4000 but the corpus has 40",
        ),
        (
            WatchGenerationsResponse {
                generation: 9,
                ..run.generation(1, 4, all_others)
            },
            "is of generation 4",
        ),
    ];
    for (activation, reason) in cases {
        let script = Script::default();
        script.announce(&activation);
        let stub = Stub::start(&script);
        let stop = CancellationToken::new();
        let refused = run_until(&run.options(&stub.url()), &run.runtime, &stop).unwrap_err();
        assert!(format!("{refused:#}").contains(reason), "{refused:#}");
        assert!(script.heard().swaps.is_empty());
        let (number, told) = (activation.generation, refusals(&script));
        assert!(told[0].reason.contains(reason), "{told:?}");
        assert_eq!((told[0].activation, told[0].generation), (1, number));
    }
}

#[test]
fn a_refused_refresh_leaves_the_old_generation_in_use() {
    let _turn = turn();
    let run = TinyRun::new(endless);
    let script = Script::default();
    script.announce(&run.generation(1, 0, all_others));
    let bad = run.generation_of(2, 1, 3, &run.run.corpus.digest, all_others);
    let good = run.generation(3, 2, all_others);
    let stub = Stub::start(&script);
    let stop = CancellationToken::new();
    train_while(&run, &run.options(&stub.url()), &stop, || {
        // Reports go out in the background: steps alone do not say that one arrived.
        until("the report of the first", || generations(&script) == [0]);
        script.announce(&bad);
        let seen = run.lines().len();
        until("more steps", || run.lines().len() > seen + 50);
        assert_eq!(generations(&script), [0]);
        until("the report of the refusal", || {
            !refusals(&script).is_empty()
        });
        let told = refusals(&script).remove(0);
        assert_eq!((told.activation, told.generation), (2, 1));
        assert_eq!(
            told.reason,
            "its negatives cover 3 of the 20 training queries"
        );
        script.announce(&good);
        until("the next good generation", || {
            generations(&script) == [0, 2]
        });
        until("an end of the refusal", || {
            (script.heard().progress.last()).is_some_and(|p| p.refusal.is_none())
        });
        stop.cancel();
    })
    .unwrap();
}

#[test]
fn a_generation_without_any_negative_is_refused_where_there_are_no_others() {
    let _turn = turn();
    let never = CancellationToken::new();
    let run = TinyRun::new(|r| r.train.in_batch = false);
    let script = Script::default();
    script.announce(&run.generation(1, 0, |_| Vec::new()));
    let stub = Stub::start(&script);
    let refused = run_until(&run.options(&stub.url()), &run.runtime, &never).unwrap_err();
    let said = format!("{refused:#}");
    for words in [
        "generation 0 is refused",
        "none of its 20 training queries has a negative",
        "mining.sparse_max_positive_ratio",
        "mining.depth",
    ] {
        assert!(said.contains(words), "`{words}` is not in: {said}");
    }
    // Going on would find the same generation.
    assert_eq!(exit_code(&refused), LASTING_EXIT);
    assert!(run.lines().is_empty(), "a step was taken");

    // One query with negatives is enough, and so are the other queries of a batch.
    let some = |q| if q == 3 { all_others(q) } else { Vec::new() };
    let run = TinyRun::new(|r| r.train.in_batch = false);
    let script = Script::default();
    script.announce(&run.generation(1, 0, some));
    let stub = Stub::start(&script);
    run_until(&run.options(&stub.url()), &run.runtime, &never).unwrap();
    let run = TinyRun::new(|_| {});
    let script = Script::default();
    script.announce(&run.generation(1, 0, |_| Vec::new()));
    let stub = Stub::start(&script);
    run_until(&run.options(&stub.url()), &run.runtime, &never).unwrap();
    assert!(run.lines()[0].loss > 0.0);
}

#[test]
fn a_refresh_without_any_negative_leaves_the_old_generation_in_use() {
    let _turn = turn();
    let run = TinyRun::new(|r| {
        endless(r);
        r.train.in_batch = false;
    });
    let script = Script::default();
    script.announce(&run.generation(1, 0, all_others));
    let empty = run.generation(2, 1, |_| Vec::new());
    let stub = Stub::start(&script);
    let stop = CancellationToken::new();
    train_while(&run, &run.options(&stub.url()), &stop, || {
        until("the report of the first", || generations(&script) == [0]);
        script.announce(&empty);
        until("the report of the refusal", || {
            !refusals(&script).is_empty()
        });
        let told = refusals(&script).remove(0);
        assert_eq!((told.activation, told.generation), (2, 1));
        assert!(told.reason.starts_with("none of its 20"), "{told:?}");
        let seen = run.lines().len();
        until("more steps", || run.lines().len() > seen + 20);
        assert_eq!(generations(&script), [0]);
        stop.cancel();
    })
    .unwrap();
}

#[test]
fn a_signal_stops_the_start_too() {
    let _turn = turn();
    let run = TinyRun::new(|_| {});
    let stop = CancellationToken::new();
    let started = Instant::now();
    // Nobody listens there, and the trainer is patient.
    train_while(&run, &run.options("http://127.0.0.1:9"), &stop, || {
        std::thread::sleep(Duration::from_millis(500));
        stop.cancel();
    })
    .unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(run.lines().is_empty());
}

#[test]
fn training_blocks_on_staleness_only_if_told_to() {
    let _turn = turn();
    let run = TinyRun::new(|r| {
        r.train.max_steps = 20;
        r.train.checkpoint_every = 5;
        r.refresh.max_staleness = 8;
        r.refresh.on_stale = OnStale::Block;
    });
    let script = Script::default();
    script.announce(&run.generation(1, 0, all_others));
    let stub = Stub::start(&script);
    let stop = CancellationToken::new();
    train_while(&run, &run.options(&stub.url()), &stop, || {
        until("the block", || {
            script.heard().progress.iter().any(|p| p.blocked)
        });
        assert_eq!(run.lines().len(), 9, "steps 0 to 8 are within the bound");
        until("a checkpoint to mine with", || {
            !script.heard().checkpoints.is_empty()
        });
        // The generation of an earlier one may never come, so the present weights too.
        let step = |c: &PublishCheckpointRequest| c.checkpoint.as_ref().map(|c| c.step);
        until("the weights it blocks with", || {
            script.heard().checkpoints.last().and_then(step) == Some(9)
        });
        stop.cancel();
    })
    .unwrap();
    assert_eq!(run.lines().len(), 9);

    let run = TinyRun::new(|r| r.refresh.max_staleness = 8);
    let script = Script::default();
    script.announce(&run.generation(1, 0, all_others));
    let stub = Stub::start(&script);
    run_until(
        &run.options(&stub.url()),
        &run.runtime,
        &CancellationToken::new(),
    )
    .unwrap();
    assert_eq!(
        run.lines().last().map(|l| (l.step, l.staleness)),
        Some((11, 11))
    );
}
