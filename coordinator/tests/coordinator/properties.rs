//! What holds whatever happens, in whatever order. The events are drawn anew from a
//! fixed seed, so that every run tests the same.

use crate::moves::{Play, moves};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use quarry_coordinator::state::{Board, Change, LeaseKey, Plan, Run, State, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// The same cases in every run, and no file beside the sources.
pub fn fixed(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(20_260_101),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(fixed(250))]

    /// The bench checks every invariant of the state after each event, and that a
    /// rejected event changes nothing.
    #[test]
    fn deadlines_never_go_backwards_and_nobody_holds_a_task_twice(moves in moves()) {
        let mut play = Play::new();
        for what in &moves {
            let before = deadlines(&play.bench.state);
            let epoch = play.bench.state.run.epoch;
            play.play(what);
            let state = &play.bench.state;
            for (lease, deadline) in deadlines(state) {
                prop_assert!(before.get(&lease).is_none_or(|earlier| *earlier <= deadline));
            }
            prop_assert!(state.run.epoch >= epoch);
            let holders: Vec<_> = state.fleet.leases.values().map(|l| (l.task, &l.worker)).collect();
            let distinct: BTreeSet<_> = holders.iter().collect();
            prop_assert_eq!(distinct.len(), holders.len());
        }
    }

    #[test]
    fn the_log_counts_each_completion_once_and_only_rises(moves in moves()) {
        let mut play = Play::new();
        moves.iter().for_each(|what| play.play(what));
        read(play.log())?;
    }

    #[test]
    fn any_record_is_a_place_to_resume_from(moves in moves()) {
        let mut play = Play::new();
        moves.iter().for_each(|what| play.play(what));
        let settings = &play.bench.state.settings;
        let (mut run, mut done) = (Run::default(), 0);
        for end in &play.ends {
            for change in &play.log()[done..*end] {
                run.evolve(change);
            }
            done = *end;
            // A snapshot, and then the rest of the log.
            let json = serde_json::to_string(&run).unwrap();
            let mut resumed: Run = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&resumed, &run);
            let state = State::resume(settings.clone(), resumed.clone(), Timestamp(0));
            prop_assert!(state.is_ok(), "{:?}", state.err());
            play.log()[done..].iter().for_each(|change| resumed.evolve(change));
            prop_assert_eq!(&resumed, &play.bench.state.run);
        }
    }

    #[test]
    fn a_restart_forgets_leases_and_nothing_else(moves in moves()) {
        let mut play = Play::new();
        moves.iter().for_each(|what| play.play(what));
        let state = &play.bench.state;
        if let (Some(open), Some(board)) = (&state.run.open, &state.board) {
            let rebuilt = Board::new(Plan::new(&state.settings, open.kind), open);
            let held = state.fleet.leases.values().map(|l| l.task);
            let undone: BTreeSet<u32> = board.ready.iter().copied().chain(held).collect();
            prop_assert_eq!(&rebuilt.ready, &undone);
            prop_assert!(rebuilt.stages().eq(board.stages()));
        }
    }

    /// Liveness: whatever happened, one good worker makes the open generation, and
    /// what is due after it.
    #[test]
    fn one_good_worker_comes_to_the_end(moves in moves()) {
        let mut play = Play::new();
        moves.iter().for_each(|what| play.play(what));
        play.come_to_rest();
        let state = &play.bench.state;
        prop_assert_eq!(&state.run.open, &None);
        prop_assert_eq!(state.due(), None);
        read(play.log())?;
    }
}

fn deadlines(state: &State) -> BTreeMap<LeaseKey, Timestamp> {
    let leases = state.fleet.leases.iter();
    leases.map(|(key, held)| (*key, held.deadline)).collect()
}

/// Reads a log as an auditor would, without the state machine.
fn read(log: &[Change]) -> Result<(), TestCaseError> {
    let (mut epoch, mut activation, mut next) = (0, 0, 0);
    let (mut open, mut clock) = (None, 0);
    let mut done = BTreeSet::new();
    for change in log {
        match change {
            Change::EpochStarted { epoch: new, .. } => {
                prop_assert_eq!(*new, epoch + 1);
                epoch = *new;
            }
            Change::GenerationOpened { generation, .. } => {
                prop_assert!(open.is_none() && *generation == next);
                (open, next, clock) = (Some(*generation), generation + 1, 0);
                done.clear();
            }
            Change::TaskCompleted {
                generation,
                task,
                elapsed_ms,
                ..
            } => {
                prop_assert_eq!(open, Some(*generation));
                prop_assert!(done.insert(*task), "task {} is counted twice", task);
                prop_assert!(*elapsed_ms >= clock, "time runs backwards");
                clock = *elapsed_ms;
            }
            Change::TaskReopened { task, .. } => prop_assert!(done.remove(task)),
            Change::GenerationPublished {
                generation,
                activation: new,
                ..
            } => {
                prop_assert_eq!((open.take(), *new), (Some(*generation), activation + 1));
                activation = *new;
            }
            Change::GenerationAborted { generation, .. } => {
                prop_assert_eq!(open.take(), Some(*generation));
            }
            Change::RolledBack {
                activation: new, ..
            } => {
                prop_assert_eq!(*new, activation + 1);
                activation = *new;
            }
            _ => {}
        }
    }
    Ok(())
}
