//! What is deleted, and what never is.

use crate::fixture::{Bench, checkpoint, settings};
use quarry_coordinator::state::{Effect, Event, Life, Rejected};
use quarry_recipe::Recipe;

fn keep(generations: usize, checkpoints: usize) -> impl FnOnce(&mut Recipe) {
    move |recipe| {
        recipe.refresh.keep_generations = generations;
        recipe.train.keep_checkpoints = checkpoints;
    }
}

/// Publishes BM25, then a generation on steps 0, 10, 20, …, followed at once.
fn turn(bench: &mut Bench, generations: u64) {
    for generation in 0..generations {
        if generation > 1 {
            bench.save((generation - 1) * 10);
        }
        bench.complete();
        let activation = bench.state.run.activations.len() as u64;
        bench.swap(generation * 10 + 5, activation).unwrap();
    }
}

fn lives(bench: &Bench) -> Vec<u64> {
    let kept = bench
        .state
        .run
        .published
        .iter()
        .filter(|(_, g)| g.life == Life::Kept);
    kept.map(|(n, _)| *n).collect()
}

fn kept_steps(bench: &Bench) -> Vec<u64> {
    let kept = bench
        .state
        .run
        .checkpoints
        .iter()
        .filter(|c| c.life == Life::Kept);
    kept.map(|c| c.reference.step).collect()
}

#[test]
fn old_generations_are_retired_but_their_runs_and_metrics_stay() {
    let mut bench = Bench::new(settings(keep(2, 1)));
    turn(&mut bench, 5);
    bench.save(45); // the trainer would resume from here, with generation 4
    assert_eq!(lives(&bench), [3, 4]);
    let collected = bench.effects.iter().find_map(|e| match e {
        Effect::CollectGeneration {
            generation: 1,
            keep,
        } => Some(keep.clone()),
        _ => None,
    });
    let published = &bench.state.run.published[&1];
    let keep = collected.unwrap();
    assert_eq!(keep.len(), 3); // run, metrics, manifest
    assert!(keep.contains(&published.manifest.path));
    let refused = bench
        .tell(Event::RollbackRequested { generation: 1 })
        .unwrap_err();
    assert!(matches!(refused, Rejected::Precondition(_)), "{refused}");
}

#[test]
fn what_the_trainer_would_use_again_after_a_resume_is_kept() {
    let mut bench = Bench::new(settings(keep(1, 1)));
    bench.complete();
    bench.swap(0, 1).unwrap();
    bench.complete();
    bench.swap(3, 2).unwrap();
    // Only the initial checkpoint exists: a resume begins at step 0 with generation 0.
    assert_eq!(lives(&bench), [0, 1]);
    bench.save(10);
    assert_eq!(lives(&bench), [1]);
}

#[test]
fn what_the_trainer_has_not_left_is_kept() {
    let mut bench = Bench::new(settings(keep(1, 1)));
    bench.complete();
    for step in [10, 20, 30] {
        bench.save(step);
        bench.complete();
    }
    assert_eq!(
        lives(&bench),
        [0, 1, 2, 3],
        "it may be fetching any of them"
    );
    let last = bench.state.run.activations.len() as u64;
    bench.swap(31, last).unwrap();
    assert_eq!(lives(&bench), [3]);
}

#[test]
fn the_active_generation_is_kept_after_a_rollback_however_old() {
    let mut bench = Bench::new(settings(keep(1, 1)));
    turn(&mut bench, 3);
    bench
        .tell(Event::RollbackRequested { generation: 1 })
        .unwrap();
    let activation = bench.state.run.activations.len() as u64;
    bench.swap(40, activation).unwrap();
    bench.save(50);
    assert_eq!(lives(&bench), [1, 2]);
    bench.restart();
    assert_eq!(lives(&bench), [1, 2]);
    assert_eq!(bench.state.run.active().unwrap().0, 1);
}

#[test]
fn checkpoints_kept_are_the_first_the_last_few_the_best_and_those_in_use() {
    let mut bench = Bench::new(settings(keep(1, 2)));
    turn(&mut bench, 3); // dense on 0 and 10; the fixture's MRR rises with the step
    for step in [20, 30, 40, 50] {
        bench.save(step);
    }
    // 20 is open; 10 is generation 2's and the best.
    assert_eq!(bench.open(), Some((3, 20)));
    assert_eq!(kept_steps(&bench), [0, 10, 20, 40, 50]);
    let collected: Vec<u64> = bench
        .effects
        .iter()
        .filter_map(|e| match e {
            Effect::CollectCheckpoint { checkpoint } => Some(checkpoint.step),
            _ => None,
        })
        .collect();
    assert_eq!(collected, [30]);
    let again = Event::CheckpointPublished {
        checkpoint: checkpoint(30),
        is_final: false,
    };
    assert!(matches!(bench.tell(again), Err(Rejected::Precondition(_))));
    bench
        .tell(Event::CheckpointCollected {
            checkpoint: checkpoint(30),
        })
        .unwrap();
    bench.save_as(60, true);
    assert_eq!(kept_steps(&bench), [0, 10, 20, 50, 60]);
}

#[test]
fn a_deletion_that_was_cut_short_is_asked_for_again_after_a_restart() {
    let mut bench = Bench::new(settings(keep(1, 1)));
    turn(&mut bench, 3);
    bench.save(35);
    let asked = |bench: &Bench| {
        let asks = |e: &&Effect| matches!(e, Effect::CollectGeneration { .. });
        bench.effects.iter().filter(asks).count()
    };
    assert_eq!(asked(&bench), 2);
    bench.wait(1);
    assert_eq!(asked(&bench), 2, "asked once");
    bench
        .tell(Event::GenerationCollected { generation: 0 })
        .unwrap();
    bench.restart();
    assert_eq!(asked(&bench), 1);
    bench
        .tell(Event::GenerationCollected { generation: 1 })
        .unwrap();
    bench.restart();
    assert_eq!(asked(&bench), 0);
}

#[test]
fn everything_of_a_generation_given_up_is_deleted() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.give_up();
    let all = Effect::CollectGeneration {
        generation: 0,
        keep: vec![],
    };
    assert!(bench.effects.contains(&all));
}
