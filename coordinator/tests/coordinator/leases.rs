//! Leases: who does what, and what happens when they do not.

use crate::fixture::{Bench, completed, heartbeat, key, output, settings};
use quarry_coordinator::state::{Answer, Effect, Event, Rejected};

const LEASE_MS: u64 = 20_000;

#[test]
fn a_lease_that_is_not_renewed_goes_to_the_next_worker() {
    let mut bench = Bench::new(settings(|_| {}));
    let first = bench.ask("a").unwrap();
    bench.wait(LEASE_MS - 1);
    assert_ne!(bench.ask("b").unwrap().task.number, first.task.number);
    bench.wait(1);
    let second = bench.ask("b").unwrap();
    assert_eq!((second.task.number, second.attempt), (first.task.number, 2));
}

#[test]
fn heartbeats_keep_a_lease_and_bring_its_end() {
    let mut bench = Bench::new(settings(|_| {}));
    let lease = bench.ask("a").unwrap();
    for _ in 0..5 {
        bench.wait(LEASE_MS - 1);
        let answer = bench.tell(heartbeat("a", &lease)).unwrap();
        assert_eq!(answer, Some(Answer::Beat { cancelled: false }));
    }
    // Another finishes the same task under no lease at all.
    assert!(bench.finish("b", &lease));
    let answer = bench.tell(heartbeat("a", &lease)).unwrap();
    assert_eq!(answer, Some(Answer::Beat { cancelled: true }));
}

#[test]
fn the_first_completion_wins_and_duplicates_change_nothing() {
    let mut bench = Bench::new(settings(|_| {}));
    let first = bench.ask("a").unwrap();
    bench.wait(LEASE_MS);
    let second = bench.ask("b").unwrap();
    assert_eq!(first.task, second.task);
    assert!(bench.finish("a", &first), "a late worker's work counts");
    assert!(
        bench.finish("a", &first),
        "a retry after a lost answer is answered alike"
    );
    let run = bench.state.run.clone();
    let mut other = output(&second.task);
    other.outputs[0].1.path.push('x');
    let answer = bench.tell(completed("b", &second, other)).unwrap();
    assert_eq!(answer, Some(Answer::Completed { accepted: false }));
    assert_eq!(bench.state.run, run);
}

#[test]
fn completions_of_other_generations_are_harmless() {
    let mut bench = Bench::new(settings(|_| {}));
    let lease = bench.ask("a").unwrap();
    bench.work_off("b");
    bench.finish("a", &lease);
    bench.publish();
    assert_eq!(bench.open(), Some((1, 0)));
    let answer = bench
        .tell(completed("a", &lease, output(&lease.task)))
        .unwrap();
    assert_eq!(answer, Some(Answer::Completed { accepted: false }));
    let mut future = lease.clone();
    future.task.generation = 99;
    assert!(matches!(
        bench.tell(completed("a", &future, output(&lease.task))),
        Err(Rejected::Unknown(_))
    ));
    let mut beyond = lease.clone();
    beyond.task.generation = 1;
    beyond.task.number = 99;
    assert!(matches!(
        bench.tell(completed("a", &beyond, output(&lease.task))),
        Err(Rejected::Unknown(_))
    ));
}

#[test]
fn a_restart_loses_no_work() {
    let mut bench = Bench::new(settings(|_| {}));
    let going = bench.ask("a").unwrap();
    let finishing = bench.ask("b").unwrap();
    bench.restart();
    // A heartbeat of the old epoch takes its task over …
    let answer = bench.tell(heartbeat("a", &going)).unwrap();
    assert_eq!(answer, Some(Answer::Beat { cancelled: false }));
    // … so nobody else gets it, and a completion of the old epoch counts.
    assert!(bench.finish("b", &finishing));
    let others = bench.work_off("c");
    assert!(
        others
            .iter()
            .all(|t| t.number != going.task.number && t.number != finishing.task.number)
    );
    assert!(bench.finish("a", &going));
    bench.publish();
}

#[test]
fn an_idle_worker_costs_nobody_the_task_a_restart_forgot() {
    let mut bench = Bench::new(settings(|_| {}));
    let going = bench.ask("a").unwrap();
    bench.restart();
    let second = bench.ask("idle").unwrap();
    assert_eq!(second.task, going.task, "leases are not durable");
    for _ in 0..2 {
        let answer = bench.tell(heartbeat("a", &going)).unwrap();
        assert_eq!(answer, Some(Answer::Beat { cancelled: false }));
    }
    assert!(bench.finish("a", &going));
    let answer = bench.tell(heartbeat("idle", &second)).unwrap();
    assert_eq!(answer, Some(Answer::Beat { cancelled: true }));
}

#[test]
fn a_lapsed_lease_goes_on_as_the_second_attempt_but_not_as_a_third() {
    let mut bench = Bench::new(settings(|_| {}));
    let first = bench.ask("a").unwrap();
    bench.wait(LEASE_MS);
    let second = bench.ask("b").unwrap();
    bench.wait(LEASE_MS);
    let third = bench.ask("c").unwrap();
    assert!([&second, &third].iter().all(|l| l.task == first.task));
    let beats = [
        ("c", &first, true),
        ("a", &first, false),
        ("b", &second, true),
    ];
    for (worker, lease, cancelled) in beats {
        let answer = bench.tell(heartbeat(worker, lease)).unwrap();
        assert_eq!(answer, Some(Answer::Beat { cancelled }), "{worker}");
    }
    let mut nameless = heartbeat("b", &second);
    if let Event::Heartbeat { task, .. } = &mut nameless {
        *task = None;
    }
    assert_eq!(
        bench.tell(nameless).unwrap(),
        Some(Answer::Beat { cancelled: true })
    );
}

#[test]
fn a_returned_lease_is_free_at_once_and_a_shutdown_is_no_failure() {
    let mut bench = Bench::new(settings(|_| {}));
    for _ in 0..5 {
        let lease = bench.ask("a").unwrap();
        assert_eq!(lease.task.number, 0);
        bench.hand_back("a", &lease, false);
    }
    assert!(bench.state.run.aborted.is_empty());
    assert_eq!(bench.state.trouble(bench.now), "");
}

#[test]
fn waiting_workers_are_served_in_order_and_told_when_the_wait_is_over() {
    let mut bench = Bench::new(settings(|_| {}));
    let leases: Vec<_> = (0..4).map(|_| bench.ask("a").unwrap()).collect();
    for (ticket, worker) in [(901, "b"), (902, "c")] {
        let (worker, wait_ms) = (worker.to_owned(), 5_000);
        bench
            .tell(Event::WorkRequested {
                ticket,
                worker,
                wait_ms,
            })
            .unwrap();
    }
    bench.hand_back("a", &leases[2], false);
    assert_eq!(bench.granted(901).unwrap().task.number, 2);
    bench.wait(5_000);
    assert!(bench.effects.contains(&Effect::NoWork {
        ticket: 902,
        finished: false
    }));
    assert!(bench.state.fleet.waiting.is_empty());
}

#[test]
fn who_does_not_wait_gets_what_is_ready_or_nothing_at_once() {
    let mut bench = Bench::new(settings(|_| {}));
    let leases: Vec<_> = (0..3).map(|_| bench.ask_at_once("a").unwrap()).collect();
    let last = bench.ask_at_once("a").unwrap();
    assert_eq!(last.task.number, 3);
    assert_eq!(bench.ask_at_once("a"), None);
    // Others wait: they are first, and the wait of none has changed.
    let (ticket, worker, wait_ms) = (901, "b".to_owned(), 5_000);
    let patient = Event::WorkRequested {
        ticket,
        worker,
        wait_ms,
    };
    bench.tell(patient).unwrap();
    assert_eq!(bench.ask_at_once("a"), None);
    bench.wait(4_999);
    assert_eq!(bench.state.fleet.waiting.len(), 1);
    bench.hand_back("a", &leases[2], false);
    assert_eq!(bench.granted(901).unwrap().task.number, 2);
    assert_eq!(bench.ask_at_once("a"), None);
    assert!(bench.state.fleet.waiting.is_empty());
}

#[test]
fn a_straggler_gets_one_backup_attempt() {
    let mut bench = Bench::new(settings(|r| r.data.block_queries = 2)); // 13 + 1 blocks
    let slow = bench.ask("slow").unwrap();
    for _ in 0..10 {
        let lease = bench.ask("w").unwrap();
        bench.now = bench.now.plus(600);
        bench.finish("w", &lease);
    }
    let held: Vec<_> = (0..3).map(|_| bench.ask("w").unwrap()).collect();
    // 10 of 14 are done: fewer than three quarters.
    assert!(bench.ask("v").is_none());
    bench.finish("w", &held[0]);
    // 11 of 14; the slow one has taken 6 s where the median is 0.6 s.
    assert!(bench.ask("slow").is_none(), "not to the same worker");
    let backup = bench.ask("v").unwrap();
    assert_eq!((backup.task.number, backup.attempt), (slow.task.number, 2));
    assert!(
        bench.ask("u").is_none(),
        "the others are not slow, and one backup is enough"
    );
    assert!(bench.finish("v", &backup));
    let answer = bench.tell(heartbeat("slow", &slow)).unwrap();
    assert_eq!(answer, Some(Answer::Beat { cancelled: true }));
}

#[test]
fn workers_join_and_vanish() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.ask("a");
    assert!(
        bench
            .effects
            .contains(&Effect::WorkerJoined { worker: "a".into() })
    );
    bench.wait(LEASE_MS + 1);
    assert!(
        bench
            .effects
            .contains(&Effect::WorkerVanished { worker: "a".into() })
    );
}

#[test]
fn a_stall_of_the_coordinator_is_not_held_against_the_workers() {
    let mut bench = Bench::new(settings(|_| {}));
    let lease = bench.ask("a").unwrap();
    bench.effects.clear();
    // The store stalls; the heartbeats sent meanwhile are still in the queue.
    let ms = 3 * LEASE_MS;
    bench.now = bench.now.plus(ms);
    bench.tell(Event::Stalled { ms }).unwrap();
    assert!(bench.state.fleet.leases.contains_key(&key(&lease)));
    assert_eq!(bench.effects, [], "nobody vanished");
    assert_eq!(bench.state.trouble(bench.now), "");
    bench.wait(LEASE_MS);
    assert!(bench.state.fleet.leases.is_empty(), "forgiven once");
}

#[test]
fn a_lease_is_its_holders_alone() {
    let mut bench = Bench::new(settings(|_| {}));
    let lease = bench.ask("a").unwrap();
    assert_eq!(
        bench.tell(heartbeat("b", &lease)).unwrap(),
        Some(Answer::Beat { cancelled: true })
    );
    bench.hand_back("b", &lease, true);
    assert!(bench.state.fleet.leases.contains_key(&key(&lease)));
}
