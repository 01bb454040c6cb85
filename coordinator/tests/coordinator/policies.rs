//! When a generation is opened, on which checkpoint, and what status says.

use crate::fixture::{Bench, checkpoint, settings};
use quarry_artifacts::GenerationKind;
use quarry_coordinator::state::{Answer, Effect, Event, Refusal, TrainerReport};
use quarry_recipe::{OnStale, Recipe, RefreshWhen};

fn steps(every: u64) -> impl FnOnce(&mut Recipe) {
    move |recipe| {
        recipe.refresh.when = RefreshWhen::Steps;
        recipe.refresh.every_steps = every;
    }
}

#[test]
fn generation_0_is_bm25_on_the_initial_checkpoint_without_waiting_for_anyone() {
    let bench = Bench::new(settings(|_| {}));
    let open = bench.state.run.open.as_ref().unwrap();
    assert_eq!(
        (open.generation, open.kind, open.checkpoint.step),
        (0, GenerationKind::Bm25, 0)
    );
}

#[test]
fn idle_refreshes_on_the_newest_checkpoint_as_soon_as_nothing_is_open() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.complete();
    assert_eq!(bench.open(), Some((1, 0)), "the zero-shot model first");
    bench.save(10);
    bench.save(20);
    bench.complete();
    assert_eq!(bench.open(), Some((2, 20)), "the newest, not each");
    bench.complete();
    assert_eq!(bench.open(), None, "nothing newer");
    bench.save(15); // a resumed trainer is behind: not newer
    assert_eq!(bench.open(), None);
    bench.save(30);
    assert_eq!(bench.open(), Some((3, 30)));
}

#[test]
fn steps_refreshes_after_that_many_steps() {
    let table = [
        (0, None),
        (10, None),
        (49, None),
        (50, Some((2, 50))),
        (80, Some((2, 80))),
    ];
    for (step, expected) in table {
        let mut bench = Bench::new(settings(steps(50)));
        bench.complete();
        assert_eq!(bench.open(), Some((1, 0)));
        bench.complete();
        bench.save(step);
        assert_eq!(bench.open(), expected, "step {step}");
    }
}

#[test]
fn a_trainer_that_waits_gets_a_refresh_from_any_newer_checkpoint() {
    let report = |step, blocked| {
        let report = TrainerReport {
            step,
            blocked,
            ..TrainerReport::default()
        };
        Event::TrainerProgressed(report)
    };
    let mut bench = Bench::new(settings(steps(50)));
    bench.complete();
    bench.give_up();
    assert!(bench.state.run.aborted.contains_key(&1));
    bench.tell(report(0, true)).unwrap();
    assert_eq!(bench.open(), None, "nothing newer than what failed");
    bench.tell(report(30, false)).unwrap();
    bench.save(30);
    assert_eq!(bench.open(), None, "it takes steps, so 50 will come");
    bench.tell(report(30, true)).unwrap();
    assert_eq!(bench.open(), Some((2, 30)));
}

#[test]
fn never_stays_with_bm25() {
    let mut bench = Bench::new(settings(|r| r.refresh.when = RefreshWhen::Never));
    bench.complete();
    bench.save(100);
    assert_eq!(bench.open(), None);
}

#[test]
fn nothing_is_opened_while_paused() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.tell(Event::PauseRequested { paused: true }).unwrap();
    bench.complete();
    bench.save(10);
    assert_eq!(bench.open(), None);
    bench.restart();
    assert_eq!(bench.open(), None, "a pause outlives a restart");
    bench.tell(Event::PauseRequested { paused: false }).unwrap();
    assert_eq!(bench.open(), Some((1, 10)));
}

#[test]
fn after_the_final_checkpoint_the_open_generation_is_finished_and_none_follows() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.complete();
    bench.save_as(100, true);
    bench.complete();
    assert_eq!(bench.open(), None);
    let (ticket, worker, wait_ms) = (77, "w".to_owned(), 1000);
    bench
        .tell(Event::WorkRequested {
            ticket,
            worker,
            wait_ms,
        })
        .unwrap();
    assert!(bench.effects.contains(&Effect::NoWork {
        ticket,
        finished: true
    }));
    bench.save_as(100, false); // told again: still the end
    assert!(bench.state.run.trained());
    bench.save(150); // the run was extended
    assert!(!bench.state.run.trained());
    assert_eq!(bench.open(), Some((2, 150)));
}

#[test]
fn late_word_of_an_earlier_checkpoint_does_not_forget_the_end() {
    let mut bench = Bench::new(settings(|recipe| {
        recipe.train.keep_checkpoints = 1;
        recipe.refresh.when = RefreshWhen::Never;
    }));
    bench.complete();
    bench.save(50);
    bench.save(80);
    bench.save_as(100, true);
    let checkpoint = checkpoint(50);
    bench
        .tell(Event::CheckpointCollected { checkpoint })
        .unwrap();
    bench.save(50); // the same message a second time, long after the first
    bench.save(70); // one that took long
    assert!(bench.state.run.trained());
    bench.restart();
    assert!(bench.state.run.trained());
}

#[test]
fn a_generation_given_up_is_not_tried_again_on_the_same_checkpoint_until_a_restart() {
    for kind in [GenerationKind::Bm25, GenerationKind::Dense] {
        let mut bench = Bench::new(settings(|_| {}));
        if kind == GenerationKind::Dense {
            bench.complete();
        }
        let (generation, _) = bench.open().unwrap();
        bench.give_up();
        assert_eq!(bench.open(), None, "{kind}");
        assert!(bench.state.trouble(bench.now).contains("was given up"));
        bench.restart();
        assert_eq!(
            bench.open(),
            Some((generation + 1, 0)),
            "{kind}: under a new number"
        );
        assert_eq!(bench.state.run.open.as_ref().unwrap().kind, kind);
    }
}

#[test]
fn a_checkpoint_told_twice_is_one() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.save(10);
    let changes = bench.log.len();
    bench.save(10);
    assert_eq!(bench.log.len(), changes);
}

#[test]
fn staleness_and_its_bound_are_shown() {
    let mut bench = Bench::new(settings(|r| {
        r.refresh.max_staleness = 100;
        r.refresh.on_stale = OnStale::Warn;
    }));
    let at = |bench: &mut Bench, step| {
        let report = TrainerReport {
            step,
            total_steps: 500,
            ..TrainerReport::default()
        };
        let answer = bench.tell(Event::TrainerProgressed(report)).unwrap();
        assert_eq!(answer, Some(Answer::Done));
    };
    at(&mut bench, 40);
    assert_eq!(bench.state.staleness(), 0, "no generation yet");
    bench.complete();
    at(&mut bench, 100);
    assert_eq!(
        (bench.state.staleness(), bench.state.trouble(bench.now)),
        (100, String::new())
    );
    at(&mut bench, 101);
    let trouble = bench.state.trouble(bench.now);
    assert!(
        trouble.contains("101 steps old") && trouble.contains("max_staleness allows 100"),
        "{trouble}"
    );
    bench.work_off("w");
    bench.wait(61_000);
    bench.ask("w");
    let trouble = bench.state.trouble(bench.now);
    assert!(
        trouble.contains("the trainer has not reported for 61 s"),
        "{trouble}"
    );
}

#[test]
fn a_checkpoint_that_cannot_be_published_is_named_before_the_age_it_causes() {
    let mut bench = Bench::new(settings(|r| {
        r.refresh.max_staleness = 100;
        r.refresh.on_stale = OnStale::Block;
    }));
    bench.complete();
    let report = |unpublished: &str| {
        Event::TrainerProgressed(TrainerReport {
            step: 101,
            total_steps: 500,
            blocked: true,
            unpublished: unpublished.to_owned(),
            ..TrainerReport::default()
        })
    };
    bench.tell(report("No space left on device")).unwrap();
    assert_eq!(
        bench.state.trouble(bench.now),
        "the trainer cannot publish a checkpoint and tries again: No space left on device"
    );
    bench.tell(report("")).unwrap();
    assert!(bench.state.trouble(bench.now).contains("101 steps old"));
}

#[test]
fn a_refused_generation_is_named_until_a_newer_one_is_active() {
    let mut bench = Bench::new(settings(|_| {}));
    let refuse = |bench: &mut Bench, activation: u64| {
        let report = TrainerReport {
            refusal: Some(Refusal {
                activation,
                generation: activation - 1,
                reason: "its negatives cover 3 of the 25 training queries".to_owned(),
            }),
            ..TrainerReport::default()
        };
        bench.tell(Event::TrainerProgressed(report)).unwrap();
        bench.state.trouble(bench.now)
    };
    bench.complete();
    assert_eq!(
        refuse(&mut bench, 1),
        "the trainer refuses generation 0: its negatives cover 3 of the 25 training queries; \
         it has no other to start with"
    );
    bench.swap(0, 1).unwrap();
    bench.complete();
    assert_eq!(bench.state.trouble(bench.now), "", "1 is not judged yet");
    assert_eq!(refuse(&mut bench, 1), "", "an old report does not matter");
    assert_eq!(
        refuse(&mut bench, 2),
        "the trainer refuses generation 1: its negatives cover 3 of the 25 training queries; \
         it goes on with generation 0"
    );
    // A rollback is a newer activation of an older generation.
    let back = Event::RollbackRequested { generation: 0 };
    bench.tell(back).unwrap();
    assert_eq!(bench.state.trouble(bench.now), "");
    refuse(&mut bench, 3);
    let well = Event::TrainerProgressed(TrainerReport::default());
    bench.tell(well).unwrap();
    assert_eq!(
        bench.state.trouble(bench.now),
        "",
        "the trainer took it back"
    );
}

#[test]
fn what_a_silent_or_finished_trainer_refused_is_not_what_matters() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.complete();
    let refusal = Refusal {
        activation: 1,
        generation: 0,
        reason: "it was mined from another corpus".to_owned(),
    };
    let report = TrainerReport {
        refusal: Some(refusal),
        ..TrainerReport::default()
    };
    bench
        .tell(Event::TrainerProgressed(report.clone()))
        .unwrap();
    bench.complete();
    bench.now = bench.now.plus(61_000);
    let trouble = bench.state.trouble(bench.now);
    assert!(trouble.contains("has not reported for 61 s"), "{trouble}");
    bench.tell(Event::TrainerProgressed(report)).unwrap();
    bench.save_as(100, true);
    assert_eq!(bench.state.trouble(bench.now), "");
}
