//! What status says of a fleet that does nothing.

use crate::fixture::{Bench, heartbeat, settings};
use quarry_coordinator::state::{Event, TrainerReport};
use quarry_coordinator::status::overview;
use quarry_recipe::OnStale;

const LEASE_MS: u64 = 20_000;

fn at_step(step: u64, blocked: bool) -> Event {
    Event::TrainerProgressed(TrainerReport {
        step,
        blocked,
        ..TrainerReport::default()
    })
}

/// A run that allows negatives of 100 steps, with generation 0 active and 1 open.
fn stale_run(on_stale: OnStale) -> Bench {
    let mut bench = Bench::new(settings(|r| {
        r.refresh.max_staleness = 100;
        r.refresh.on_stale = on_stale;
    }));
    bench.complete();
    bench
}

#[test]
fn a_fleet_that_never_came_is_missed() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.wait(59_999);
    assert_eq!(
        bench.state.trouble(bench.now),
        "",
        "models take time to load"
    );
    bench.wait(1);
    assert_eq!(
        bench.state.trouble(bench.now),
        "no inferencer has asked for work for 60 s: generation 0 waits; \
         start one with quarry-inferencer"
    );
    bench.ask("a");
    assert_eq!(bench.state.trouble(bench.now), "");
}

#[test]
fn a_fleet_that_died_is_missed_after_a_minute() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.ask("a");
    bench.wait(LEASE_MS + 1);
    bench.wait(60_000);
    let trouble = bench.state.trouble(bench.now);
    assert!(
        trouble.starts_with("no inferencer has asked for work for 80 s: generation 0 waits"),
        "{trouble}"
    );
}

#[test]
fn a_worker_with_a_long_lease_is_not_missed() {
    let mut bench = Bench::new(settings(|r| r.fleet.lease_seconds = 300));
    let lease = bench.ask("a").unwrap();
    bench.wait(200_000);
    assert_eq!(bench.state.trouble(bench.now), "");
    bench.tell(heartbeat("a", &lease)).unwrap();
    bench.wait(301_000);
    assert!(bench.state.trouble(bench.now).contains("for 301 s"));
}

#[test]
fn a_generation_that_is_only_to_be_published_waits_for_no_fleet() {
    let mut bench = Bench::new(settings(|_| {}));
    bench.work_off("w");
    bench.wait(600_000);
    assert_eq!(bench.state.trouble(bench.now), "");
}

#[test]
fn a_dead_fleet_is_named_as_the_cause_of_old_negatives() {
    for on_stale in [OnStale::Warn, OnStale::Block] {
        let mut bench = stale_run(on_stale);
        let blocked = on_stale == OnStale::Block;
        bench.tell(at_step(101, blocked)).unwrap();
        let trouble = bench.state.trouble(bench.now);
        let alive = ["add inferencers", "the trainer waits for fresher ones"];
        assert!(trouble.ends_with(alive[usize::from(blocked)]), "{trouble}");
        bench.wait(LEASE_MS + 5_000);
        assert_eq!(
            bench.state.trouble(bench.now),
            "negatives are 101 steps old where refresh.max_staleness allows 100; \
             no inferencer has asked for work for 25 s, so start one with quarry-inferencer"
        );
        bench.wait(60_000);
        let too = if blocked {
            ", and the trainer with it"
        } else {
            ""
        };
        assert_eq!(
            bench.state.trouble(bench.now),
            format!(
                "no inferencer has asked for work for 85 s: generation 1 waits{too}; \
                 start one with quarry-inferencer"
            )
        );
        bench.ask("w");
        bench.tell(at_step(101, blocked)).unwrap();
        assert!(bench.state.trouble(bench.now).starts_with("negatives are"));
    }
}

#[test]
fn a_pause_is_named_as_the_cause_of_old_negatives() {
    let mut bench = stale_run(OnStale::Warn);
    bench.complete();
    bench.tell(Event::PauseRequested { paused: true }).unwrap();
    bench.save(120);
    bench.tell(at_step(150, false)).unwrap();
    let trouble = bench.state.trouble(bench.now);
    assert!(trouble.ends_with("refreshing is paused"), "{trouble}");
}

#[test]
fn workers_that_hand_everything_back_are_named() {
    let mut bench = Bench::new(settings(|_| {}));
    for n in 0..6 {
        assert_eq!(bench.state.trouble(bench.now), "", "{n}");
        let lease = bench.ask("a").unwrap();
        bench.hand_back("a", &lease, false);
    }
    assert_eq!(
        bench.state.trouble(bench.now),
        "6 tasks in a row were handed back undone, at last by a: the disk is full"
    );
    let lease = bench.ask("a").unwrap();
    assert!(bench.finish("a", &lease));
    assert_eq!(bench.state.trouble(bench.now), "");
}

#[test]
fn nobody_knows_when_a_dead_fleet_is_done() {
    let mut bench = Bench::new(settings(|_| {}));
    let lease = bench.ask("a").unwrap();
    bench.wait(1_000);
    assert!(bench.finish("a", &lease));
    let eta = |bench: &Bench| overview(&bench.state, bench.now).open.unwrap().eta_seconds;
    assert_eq!(eta(&bench), 3.0);
    bench.wait(LEASE_MS + 1);
    assert_eq!(eta(&bench), -1.0);
}
