//! Tasks that fail on every worker: the generation is given up soon, with the reason.

use crate::fixture::{Bench, completed, heartbeat, key, output, settings};
use quarry_coordinator::state::{Answer, Event, MOST_ATTEMPTS, MOST_FAILURES, TrainerReport};
use quarry_proto::Lease;
use quarry_recipe::OnStale;

const LEASE_MS: u64 = 20_000;
/// Pause before a worker tries again what failed in its hands.
const RETRY_MS: u64 = 5_000;
/// A task of every generation 0.
const FIRST: &str = "mine bm25 train[0..10]";

fn bench() -> Bench {
    Bench::new(settings(|_| {}))
}

/// What is said of `generation`, which was given up.
fn reason(bench: &Bench, generation: u64) -> &str {
    &bench.state.run.aborted[&generation].reason
}

#[test]
fn a_task_that_fails_on_every_live_worker_gives_the_generation_up() {
    let mut bench = bench();
    let other = bench.ask("b").unwrap();
    let lease = bench.ask("a").unwrap();
    bench.hand_back("a", &lease, true);
    assert!(bench.state.run.aborted.is_empty(), "b may do better");
    assert!(bench.finish("b", &other));
    let again = bench.ask("b").unwrap();
    assert_eq!(again.task, lease.task, "before all that is ready");
    bench.hand_back("b", &again, true);
    let (count, work) = (2, &lease.task.work);
    let expected = format!("{work} failed {count} times, at last on b: the disk is full");
    assert_eq!(reason(&bench, 0), expected);
    let trouble = bench.state.trouble(bench.now);
    let expected = format!("generation 0 was given up: {expected}; remove the cause");
    assert!(trouble.starts_with(&expected), "{trouble}");
}

#[test]
fn in_a_large_fleet_three_workers_are_enough() {
    let mut bench = bench();
    bench.complete();
    let idle: Vec<Lease> = (0..3)
        .map(|n| bench.ask(&format!("idle-{n}")).unwrap())
        .collect();
    for (n, worker) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(bench.state.board.as_ref().unwrap().failures.len(), n);
        let lease = bench.ask(worker).unwrap();
        assert_eq!(lease.task.number, 3);
        bench.hand_back(worker, &lease, true);
    }
    assert!(reason(&bench, 1).contains("failed 3 times, at last on c: the disk is full"));
    // Training goes on with the generation before, until there is another checkpoint.
    assert_eq!(bench.open(), None);
    assert_eq!(bench.state.run.active().unwrap().0, 0);
    assert!(!bench.finish("idle-0", &idle[0]), "too late");
    bench.save(10);
    assert_eq!(bench.open(), Some((2, 10)));
    assert_eq!(bench.state.trouble(bench.now), "");
}

#[test]
fn a_worker_alone_tries_three_times_with_a_pause_and_does_the_rest_meanwhile() {
    let mut bench = bench();
    let lease = bench.ask("a").unwrap();
    bench.hand_back("a", &lease, true);
    let trouble = bench.state.trouble(bench.now);
    assert_eq!(trouble, format!("{FIRST} failed on a: the disk is full"));
    let rest = bench.work_off("a");
    assert!(rest.iter().all(|task| task.number != lease.task.number));
    for _ in 1..MOST_FAILURES {
        assert_eq!(bench.open(), Some((0, 0)));
        assert_eq!(bench.ask("a"), None);
        bench.wait(RETRY_MS);
        let again = bench.ask("a").unwrap();
        assert_eq!(again.task, lease.task);
        bench.hand_back("a", &again, true);
    }
    let expected = format!("{FIRST} failed 3 times, at last on a: the disk is full");
    assert_eq!(reason(&bench, 0), expected);
}

#[test]
fn what_succeeds_in_the_end_is_forgiven() {
    let mut bench = bench();
    bench.ask("bystander");
    for worker in ["a", "b"] {
        let lease = bench.ask(worker).unwrap();
        bench.hand_back(worker, &lease, true);
    }
    assert_eq!(bench.open(), Some((0, 0)));
    bench.wait(LEASE_MS + 1); // the bystander is gone too
    bench.work_off("c");
    assert_eq!(bench.state.board.as_ref().unwrap().failures, []);
    assert_eq!(bench.state.trouble(bench.now), "");
    bench.publish();
}

#[test]
fn a_task_that_kills_its_workers_gives_the_generation_up() {
    let mut bench = bench();
    for n in 0..MOST_ATTEMPTS {
        assert_eq!(bench.open(), Some((0, 0)), "fewer may be a preempted fleet");
        let trouble = bench.state.trouble(bench.now);
        let named = trouble.starts_with(&format!("{n} workers vanished while at {FIRST}"));
        assert_eq!(named, n >= 2, "{trouble}");
        let worker = format!("worker-{n}");
        let lease = bench.ask(&worker).unwrap();
        assert_eq!(lease.task.number, 0);
        // Dying at once or after a heartbeat is the same.
        if n % 2 == 0 {
            bench.wait(LEASE_MS / 4);
            bench.tell(heartbeat(&worker, &lease)).unwrap();
        }
        bench.wait(LEASE_MS);
    }
    let expected = format!("5 workers vanished while at {FIRST}; look at their logs");
    assert!(reason(&bench, 0).starts_with(&expected));
}

#[test]
fn deaths_and_words_are_counted_together_but_words_weigh_more() {
    for (deaths, words) in [(1, 3), (2, 3), (3, 2), (4, 1)] {
        let mut bench = bench();
        let bystander = bench.ask("bystander").unwrap();
        for n in 0..deaths {
            let lease = bench.ask(&format!("dies-{n}")).unwrap();
            assert_eq!(lease.task.number, 1);
            bench.wait(LEASE_MS - 1);
            bench.tell(heartbeat("bystander", &bystander)).unwrap();
            bench.wait(1);
        }
        for n in 0..words {
            assert_eq!(bench.open(), Some((0, 0)), "{deaths} deaths, {n} words");
            let worker = format!("fails-{n}");
            let lease = bench.ask(&worker).unwrap();
            assert_eq!(lease.task.number, 1);
            bench.hand_back(&worker, &lease, true);
        }
        let (count, last) = (deaths + words, words - 1);
        let expected = format!("failed {count} times, at last on fails-{last}: the disk is full");
        assert!(reason(&bench, 0).ends_with(&expected));
    }
}

#[test]
fn a_told_failure_after_a_death_asks_another_worker() {
    let mut bench = bench();
    let other = bench.ask("bystander").unwrap();
    let lost = bench.ask("a").unwrap();
    bench.wait(LEASE_MS - 1);
    bench.tell(heartbeat("bystander", &other)).unwrap();
    bench.wait(1);
    let failed = bench.ask("b").unwrap();
    assert_eq!(failed.task, lost.task);
    bench.hand_back("b", &failed, true);
    let again = bench.ask("c").unwrap();
    assert_eq!(again.task, lost.task);
    assert!(bench.finish("c", &again));
    assert_eq!(bench.state.board.as_ref().unwrap().failures, []);
}

#[test]
fn a_worker_that_was_only_cut_off_did_not_die_of_its_task() {
    let mut bench = bench();
    let lease = bench.ask("a").unwrap();
    for _ in 0..2 * MOST_FAILURES {
        bench.wait(2 * LEASE_MS);
        assert_eq!(bench.state.board.as_ref().unwrap().failures.len(), 1);
        let answer = bench.tell(heartbeat("a", &lease)).unwrap();
        assert_eq!(answer, Some(Answer::Beat { cancelled: false }));
        assert_eq!(bench.state.board.as_ref().unwrap().failures, []);
    }
    assert!(bench.finish("a", &lease));
}

#[test]
fn word_of_a_failure_counts_once_even_if_it_comes_after_the_lease() {
    let mut bench = bench();
    let lease = bench.ask("a").unwrap();
    bench.wait(LEASE_MS);
    bench.hand_back("a", &lease, true);
    bench.hand_back("a", &lease, true); // a doubled message
    let failures = &bench.state.board.as_ref().unwrap().failures;
    let told: Vec<_> = failures.iter().map(|f| f.reason.as_deref()).collect();
    assert_eq!(told, [Some("the disk is full")]);
    // A shutdown that is heard of late is none.
    let lease = bench.ask("b").unwrap();
    bench.wait(LEASE_MS);
    bench.hand_back("b", &lease, false);
    assert_eq!(bench.state.board.as_ref().unwrap().failures.len(), 1);
}

#[test]
fn a_straggler_is_not_backed_up_by_who_failed_at_it() {
    let mut bench = Bench::new(settings(|r| r.data.block_queries = 2)); // 13 + 1 blocks
    let failed = bench.ask("a").unwrap();
    let slow = bench.ask("slow").unwrap();
    bench.hand_back("a", &failed, true);
    let again = bench.ask("slow").unwrap();
    assert_eq!(again.task, failed.task);
    assert!(bench.finish("slow", &slow));
    for _ in 0..12 {
        let lease = bench.ask("a").unwrap();
        bench.now = bench.now.plus(600);
        assert!(bench.finish("a", &lease));
    }
    assert_eq!(bench.ask("a"), None);
    let backup = bench.ask("b").unwrap();
    assert_eq!(backup.task, failed.task);
}

#[test]
fn a_waiting_trainer_is_told_that_no_checkpoint_will_come() {
    let mut bench = Bench::new(settings(|r| {
        r.refresh.max_staleness = 100;
        r.refresh.on_stale = OnStale::Block;
    }));
    bench.complete();
    let report = |blocked| {
        Event::TrainerProgressed(TrainerReport {
            step: 120,
            blocked,
            ..TrainerReport::default()
        })
    };
    bench.give_up();
    bench.tell(report(false)).unwrap();
    let trouble = bench.state.trouble(bench.now);
    assert!(
        trouble.ends_with("or wait for the next checkpoint"),
        "{trouble}"
    );
    bench.tell(report(true)).unwrap();
    let trouble = bench.state.trouble(bench.now);
    let advice = "the trainer waits: remove the cause and restart the coordinator";
    assert!(trouble.ends_with(advice), "{trouble}");
    // While another is made, the reason goes with the age it causes.
    bench.save(120);
    let trouble = bench.state.trouble(bench.now);
    assert!(
        trouble.contains("120 steps old") && trouble.contains("generation 1 was given up"),
        "{trouble}"
    );
}

#[test]
fn outputs_that_come_after_all_count_for_the_task() {
    let mut bench = bench();
    let lease = bench.ask("a").unwrap();
    bench.wait(LEASE_MS);
    assert!(bench.state.board.as_ref().unwrap().failures[0].lease == key(&lease));
    let late = completed("a", &lease, output(&lease.task));
    let answer = bench.tell(late).unwrap();
    assert_eq!(answer, Some(Answer::Completed { accepted: true }));
    assert_eq!(bench.state.board.as_ref().unwrap().failures, []);
}
