//! Deterministic simulation of the coordinator: the real driver, log, state machine
//! and service on virtual time, with rival coordinators, many workers and a trainer,
//! on a store and a network that fail. The laws are checked at every event.
//!
//! A seed that breaks a law is printed with the end of its trace, and replays alone:
//! `QUARRY_SIMULATION_SEEDS=17..18 cargo test -p quarry-coordinator --test simulation`.
#![allow(clippy::unwrap_used)]

mod audit;
mod calls;
mod chaos;
mod checkpoints;
mod client;
mod cluster;
mod counts;
mod deletions;
mod feed;
mod generations;
mod ledger;
mod mutation;
mod network;
mod objects;
mod outbox;
mod process;
mod retention;
mod scenario;
mod simulation;
mod site;
mod trainer;
mod weather;
mod worker;
mod world;

use mutation::Bug;
use simulation::simulate;
use std::ops::Range;
use std::time::Instant;

/// Seeds of an ordinary test run.
const SEEDS: Range<u64> = 0..200;
/// Seeds within which a planted bug must be found.
const PLANTED: u64 = 100;
/// Lines of a trace that are shown, unless its seed is run alone.
const SHOWN: usize = 60;

/// The seeds asked for with `QUARRY_SIMULATION_SEEDS=from..to`.
fn seeds() -> Range<u64> {
    let Ok(asked) = std::env::var("QUARRY_SIMULATION_SEEDS") else {
        return SEEDS;
    };
    let (from, to) = asked
        .split_once("..")
        .expect("QUARRY_SIMULATION_SEEDS is from..to");
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn no_schedule_of_faults_breaks_a_law() {
    let (seeds, started) = (seeds(), Instant::now());
    let mut totals = counts::Counts::default();
    let mut virtual_ms = 0;
    let mut broken = Vec::new();
    for seed in seeds.clone() {
        let report = simulate(seed, None);
        totals.add(&report.counts);
        virtual_ms += report.virtual_ms;
        let alone = seeds.end - seeds.start == 1;
        if alone || report.verdict.is_some() {
            let hidden = report.trace.len().saturating_sub(SHOWN);
            let shown = &report.trace[if alone { 0 } else { hidden }..];
            eprintln!("seed {seed}:\n{}", shown.join("\n"));
        }
        broken.extend(report.verdict.map(|law| (seed, law)));
    }
    let (hours, seconds) = (virtual_ms / 3_600_000, started.elapsed().as_secs());
    eprintln!("{seeds:?}: {hours} virtual hours in {seconds} s: {totals:?}");
    assert!(
        broken.is_empty(),
        "seeds that break a law: {broken:#?}; run one alone with QUARRY_SIMULATION_SEEDS=n..n+1"
    );
    if seeds == SEEDS {
        totals.require_all();
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 17, 86] {
        let (once, again) = (simulate(seed, None), simulate(seed, None));
        let differs = once
            .trace
            .iter()
            .zip(&again.trace)
            .position(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed} differs");
        assert_eq!(once.trace.len(), again.trace.len());
    }
    assert_ne!(simulate(3, None).trace, simulate(17, None).trace);
}

#[test]
fn every_planted_bug_is_found() {
    for (bug, law) in Bug::ALL {
        let found = (0..PLANTED).find_map(|seed| Some((seed, simulate(seed, Some(bug)).verdict?)));
        let (seed, verdict) = found.unwrap_or_else(|| panic!("{bug:?} is not found"));
        eprintln!("{bug:?} is found by seed {seed}: {verdict}");
        assert!(verdict.starts_with(law), "{bug:?} is taken for: {verdict}");
    }
}
