//! The laws the state keeps, one test each.

use crate::fixture::{Bench, checkpoint, completed, object, output, settings};
use quarry_artifacts::{GenerationKind, layout};
use quarry_coordinator::state::{
    Answer, Change, Effect, Event, Publishing, Rejected, State, Timestamp, check,
};
use quarry_proto::Role;

#[test]
fn law_2_a_generation_stems_from_one_checkpoint_and_is_published_whole() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.complete();
    bench.save(10); // newer, but the open generation stays with its own
    let tasks = bench.work_off("w");
    assert!(tasks.iter().all(|t| t.checkpoint == checkpoint(0)));
    let (manifest, objects) = bench.wanted().unwrap();
    manifest.check().unwrap();
    assert_eq!(
        (manifest.generation, manifest.kind),
        (1, GenerationKind::Dense)
    );
    assert_eq!(manifest.checkpoint, checkpoint(0));
    assert_eq!(
        (manifest.embeddings.len(), manifest.negatives.len()),
        (3, 3)
    );
    assert_eq!(
        (
            manifest.query_embeddings["train"].len(),
            manifest.query_embeddings["dev"].len()
        ),
        (3, 1)
    );
    assert_eq!(manifest.runs.len(), 1);
    assert_eq!(manifest.counts["dropped_positives"], 3 * 7);
    assert!(
        manifest.metrics.contains_key("dev/mrr@10"),
        "{:?}",
        manifest.metrics
    );
    assert_eq!(objects.len(), tasks.len() + 1); // the dev block makes two
}

#[test]
fn law_2_nothing_is_published_while_a_task_is_undone() {
    let mut bench = Bench::new(settings(|_| {}));
    let held = bench.ask("slow").unwrap();
    bench.work_off("w");
    assert!(bench.wanted().is_none());
    let manifest = object("generations/000000", "forged");
    bench
        .tell(Event::ManifestWritten {
            generation: 0,
            manifest,
        })
        .unwrap();
    assert!(bench.state.run.published.is_empty());
    assert!(bench.finish("slow", &held));
    assert!(bench.wanted().is_some());
}

#[test]
fn law_2_a_missing_object_reopens_its_task_and_is_counted() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.work_off("w");
    let (manifest, _) = bench.wanted().unwrap();
    let paths = vec![manifest.negatives[1].object.path.clone()];
    bench
        .tell(Event::ObjectsMissing {
            generation: 0,
            paths,
        })
        .unwrap();
    bench.written(&manifest); // too late: it is no longer complete
    assert!(bench.state.run.published.is_empty());
    let again = bench.work_off("w");
    assert_eq!(again.len(), 1);
    assert_eq!(bench.publish().counts["reopened_tasks"], 1);
}

#[test]
fn law_2_an_object_that_keeps_missing_gives_the_generation_up() {
    let mut bench = Bench::new(settings(|_| {}));
    for _ in 0..3 {
        bench.work_off("w");
        let (manifest, _) = bench.wanted().unwrap();
        let paths = vec![manifest.negatives[0].object.path.clone()];
        bench
            .tell(Event::ObjectsMissing {
                generation: 0,
                paths,
            })
            .unwrap();
    }
    assert!(
        bench.state.run.aborted[&0]
            .reason
            .contains("missing or short")
    );
}

#[test]
fn law_2_outputs_that_are_not_what_the_task_makes_are_rejected() {
    let mut bench = Bench::new(settings(|_| {}));
    let lease = bench.ask("w").unwrap();
    let good = output(&lease.task);
    let mut none = good.clone();
    none.outputs.clear();
    let mut twice = good.clone();
    twice.outputs.extend(good.outputs.clone());
    let mut other = good.clone();
    other.outputs[0].0 = Role::Candidates;
    let mut outside = good.clone();
    outside.outputs[0].1 = object("generations/000099", "x");
    let mut empty = good.clone();
    empty.outputs[0].1.size = 0;
    let mut nan = good.clone();
    nan.metrics.insert("loss".into(), f64::NAN);
    for bad in [none, twice, other, outside, empty, nan] {
        let rejected = bench.tell(completed("w", &lease, bad)).unwrap_err();
        assert!(matches!(rejected, Rejected::Invalid(_)), "{rejected}");
    }
    assert!(bench.finish("w", &lease));
}

#[test]
fn law_3_activations_rise_and_a_rollback_is_a_new_record() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.complete();
    bench.complete();
    assert_eq!(bench.state.run.activations, [0, 1]);
    bench.effects.clear();
    let answer = bench
        .tell(Event::RollbackRequested { generation: 0 })
        .unwrap();
    assert_eq!(answer, Some(Answer::Activated { activation: 3 }));
    assert_eq!(bench.state.run.activations, [0, 1, 0]);
    let announced = bench.effects.iter().find_map(|e| match e {
        Effect::Announce(a) => Some((a.activation, a.generation)),
        _ => None,
    });
    assert_eq!(announced, Some((3, 0)));
    let rolled_back = Change::RolledBack {
        activation: 3,
        generation: 0,
    };
    assert_eq!(bench.log.last(), Some(&rolled_back));
    // Again: it is active already.
    let answer = bench
        .tell(Event::RollbackRequested { generation: 0 })
        .unwrap();
    assert_eq!(answer, Some(Answer::Activated { activation: 3 }));
    let unknown = bench
        .tell(Event::RollbackRequested { generation: 9 })
        .unwrap_err();
    assert!(matches!(unknown, Rejected::Unknown(_)));
}

#[test]
fn law_4_the_version_log_takes_only_what_was_active_and_forgets_lost_steps() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.complete();
    bench.swap(0, 1).unwrap();
    bench.complete();
    bench.swap(120, 2).unwrap();
    bench.swap(120, 2).unwrap(); // a retry after a lost answer
    let steps = |b: &Bench| {
        b.state
            .run
            .swaps
            .iter()
            .map(|s| (s.step, s.generation))
            .collect::<Vec<_>>()
    };
    assert_eq!(steps(&bench), [(0, 0), (120, 1)]);
    bench.swap(100, 2).unwrap(); // resumed from an earlier checkpoint
    assert_eq!(steps(&bench), [(0, 0), (100, 1)]);
    let event = Event::TrainerSwapped {
        step: 130,
        activation: 2,
        generation: 0,
        checkpoint: checkpoint(0).digest,
        session: None,
    };
    assert!(matches!(bench.tell(event), Err(Rejected::Unknown(_))));
}

#[test]
fn law_4_a_swap_that_comes_late_erases_nothing() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.complete();
    bench.save(100);
    bench.complete();
    bench.save(200);
    bench.complete();
    let lines = |b: &Bench| -> Vec<_> {
        let swaps = b.state.run.swaps.iter();
        swaps.map(|s| (s.step, s.activation)).collect()
    };
    for (step, activation) in [(0, 1), (120, 2), (120, 3)] {
        bench.swap_in(Some(7), step, activation).unwrap();
    }
    assert_eq!(lines(&bench), [(0, 1), (120, 3)]);
    let recorded = bench.log.len();
    for (step, activation) in [(0, 1), (120, 2), (120, 3)] {
        let answer = bench.swap_in(Some(7), step, activation).unwrap();
        assert_eq!(answer, Some(Answer::Done));
    }
    assert_eq!(bench.log.len(), recorded);
    // Another process is one that resumed, and takes its steps again.
    bench.swap_in(Some(8), 100, 2).unwrap();
    assert_eq!(lines(&bench), [(0, 1), (100, 2)]);
    bench.swap_in(Some(8), 90, 1).unwrap();
    assert_eq!(lines(&bench), [(0, 1), (100, 2)]);
    // One that does not say which it is may always have resumed.
    bench.swap(110, 3).unwrap();
    bench.swap(105, 3).unwrap();
    assert_eq!(lines(&bench), [(0, 1), (100, 2), (105, 3)]);
}

#[test]
fn law_7_a_replay_of_the_changes_gives_the_same_run_also_as_json() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.complete();
    bench.swap(0, 1).unwrap();
    bench.save(5);
    let lease = bench.ask("w").unwrap();
    bench.finish("w", &lease);
    let json = serde_json::to_string(&bench.log).unwrap();
    let log: Vec<Change> = serde_json::from_str(&json).unwrap();
    assert_eq!(log, bench.log);
    let state = State::replay(bench.state.settings.clone(), &log, Timestamp(0)).unwrap();
    assert_eq!(state.run, bench.state.run);
}

#[test]
fn a_log_that_breaks_a_law_is_refused() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.work_off("w");
    bench.publish();
    let replay = |log: &[Change]| State::replay(settings(|_| {}), log, Timestamp(0)).map(|_| ());
    replay(&bench.log).unwrap();
    let mut short = bench.log.clone();
    let at = short
        .iter()
        .position(|c| matches!(c, Change::TaskCompleted { .. }))
        .unwrap();
    short.remove(at);
    assert!(replay(&short).unwrap_err().contains("law 2"));
    let other = settings(|r| r.data.block_queries = 5);
    assert!(State::replay(other, &bench.log, Timestamp(0)).is_err());
    let mut broken = bench.state.clone();
    broken.run.activations.push(7);
    assert!(check(&broken).unwrap_err().contains("law 3"));
}

#[test]
fn a_store_that_is_away_delays_the_publication_and_is_named() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.work_off("w");
    bench.wanted().unwrap();
    let reason = "the store is away".to_owned();
    bench
        .tell(Event::PublicationFailed {
            generation: 0,
            reason,
        })
        .unwrap();
    assert!(bench.wanted().is_none());
    assert!(bench.state.trouble(bench.now).contains("the store is away"));
    bench.wait(5_000);
    bench.publish();
    assert_eq!(bench.state.publishing, Publishing::Idle);
    assert_eq!(bench.state.trouble(bench.now), "");
}

#[test]
fn a_crash_between_manifest_and_record_publishes_the_same_manifest_again() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.work_off("w");
    let (first, _) = bench.wanted().unwrap();
    bench.restart();
    let (second, _) = bench.wanted().unwrap();
    assert_eq!(first, second);
    bench.written(&second);
    assert_eq!(bench.state.run.activations, [0]);
    assert!(layout::generation_manifest(0).ends_with("manifest.json"));
}
