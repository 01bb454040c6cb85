//! How long each recovery takes, with real processes on squad-mini; see
//! docs/reliability.md. `cpulimit` must be installed.
//!
//!   cargo run -p quarry-testkit --example reliability -- FOLDER
#![allow(clippy::unwrap_used)] // Its panics are its verdict.

use quarry_testkit::{LEADS, Member, RunStore, Signal, program, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Each figure of a short recovery is taken so often.
const ROUNDS: usize = 5;
/// Inferencers of the large fleet, and how many of them are killed.
const FLEET: usize = 10;
const LOST: usize = 3;
/// Percent of a core that each of the large fleet gets, so that all fit on one
/// machine and those that die leave nothing to the others.
const SHARE: &str = "3";
/// Of anything here.
const LIMIT: Duration = Duration::from_secs(1800);

fn main() {
    let folder = std::env::args().nth(1).expect("reliability FOLDER");
    std::fs::create_dir_all(&folder).unwrap();
    let folder = PathBuf::from(folder).canonicalize().unwrap();
    restarts(&prepared(&folder, "restart"));
    takeovers(&prepared(&folder, "takeover-stop"), Signal::Stop);
    takeovers(&prepared(&folder, "takeover-kill"), Signal::Kill);
    let whole = refresh(&prepared(&folder, "whole"), 0);
    let reduced = refresh(&prepared(&folder, "reduced"), LOST);
    println!(
        "refresh by {FLEET} inferencers: {:.0} s; {LOST} of them killed half-way: {:.0} s, {:.2} times as long",
        whole.seconds,
        reduced.seconds,
        reduced.seconds / whole.seconds
    );
    assert_eq!(whole.published, reduced.published, "another result");
    println!("the negatives of both are equal, byte for byte");
}

/// A store with a run of squad-mini at step 0.
fn prepared(folder: &Path, name: &str) -> RunStore {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let store = RunStore::new(folder.join(name));
    let output = Command::new(program("quarry"))
        .args(["prepare", "--store", store.url()])
        .args(["--set", "data.shard_passages=8"])
        .args(["--set", "data.block_queries=256"])
        .args(["--set", "model.precision=f32"])
        .arg("--data")
        .arg(root.join("data/squad-mini"))
        .arg("--model")
        .arg(root.join(".deps/models/all-MiniLM-L6-v2"))
        .arg("--recipe")
        .arg(root.join("recipes/demo.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    store
}

/// `kill -9` of the coordinator in the middle of a refresh, and a new one at once:
/// from its start until it answers as the leader.
fn restarts(store: &RunStore) {
    let (mut coordinator, url) = Member::coordinator(store, "coordinator", &[]);
    let _worker = Member::client(store, "inferencer-0", "quarry-inferencer", &url);
    wait_until_refreshing(store, &url, 0.1);
    let address = url.trim_start_matches("http://").to_owned();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        coordinator.kill();
        let began = Instant::now();
        (coordinator, _) = Member::coordinator(store, "coordinator", &["--listen", &address]);
        wait_for("an answer", LIMIT, || status(&url));
        times.push(began.elapsed());
    }
    report("restart of the coordinator", times);
}

/// The leader dies or stops: until the standby leads.
fn takeovers(store: &RunStore, fault: Signal) {
    let start = |name: &str| Member::coordinator(store, name, &["--standby"]);
    let (mut leader, _) = start("coordinator-0");
    leader.wait_until_said(LEADS, 1);
    let mut times = Vec::new();
    for round in 1..=ROUNDS {
        let (standby, _) = start(&format!("coordinator-{round}"));
        standby.wait_until_said("standing by", 1);
        // The standby must have seen the leader alive, or it would measure its own start.
        std::thread::sleep(Duration::from_secs(3));
        leader.signal(fault);
        let began = Instant::now();
        standby.wait_until_said(LEADS, 1);
        times.push(began.elapsed());
        leader = standby;
    }
    let what = match fault {
        Signal::Stop => "stopped",
        _ => "killed",
    };
    report(&format!("take-over from a {what} leader"), times);
}

/// What a refresh took, and what it published.
struct Refresh {
    seconds: f64,
    /// Digests of the negatives.
    published: Vec<String>,
}

/// Generation 1 by a fleet of throttled inferencers, `lost` of which are killed
/// when half of its tasks are done.
fn refresh(store: &RunStore, lost: usize) -> Refresh {
    let (_coordinator, url) = Member::coordinator(store, "coordinator", &[]);
    let fleet: Vec<(String, Member)> = (0..FLEET)
        .map(|n| {
            let name = format!("inferencer-{n}");
            let member = Member::client(store, &name, "quarry-inferencer", &url);
            (name, member)
        })
        .collect();
    // Only the refresh is to be slow, not the loading of the programs.
    wait_until_refreshing(store, &url, 0.0);
    let mut fleet: Vec<(String, Member, Child)> = fleet
        .into_iter()
        .map(|(name, member)| {
            let limiter = throttle(member.pid());
            (name, member, limiter)
        })
        .collect();
    wait_until_refreshing(store, &url, if lost > 0 { 0.5 } else { 0.0 });
    let before = status(&url).unwrap();
    let (mut dead, mut orphans) = (Vec::new(), Vec::new());
    for (name, mut member, mut limiter) in fleet.drain(..lost) {
        member.kill();
        let _ = limiter.wait();
        orphans.extend(task_of(&before, &name));
        dead.push(name);
    }
    if !orphans.is_empty() {
        report_rescue(&url, &orphans, &dead);
    }
    let generation = wait_for("generation 1", LIMIT, || {
        store.generations().into_iter().find(|g| g.generation == 1)
    });
    let listed = command(&["generations", "--json", "--coordinator", &url]).unwrap();
    for (_, member, limiter) in &mut fleet {
        let _ = (limiter.kill(), limiter.wait());
        member.signal(Signal::Continue);
    }
    let seconds = listed["generations"]
        .as_array()
        .and_then(|all| all.iter().find(|g| g["generation"] == 1))
        .and_then(|g| g["seconds"].as_f64())
        .unwrap_or_else(|| panic!("no seconds of generation 1: {listed}"));
    let published = generation
        .negatives
        .iter()
        .map(|block| block.object.sha256.to_string())
        .collect();
    Refresh { seconds, published }
}

/// Prints how long it took until each task of a dead inferencer was given again.
fn report_rescue(url: &str, orphans: &[String], dead: &[String]) {
    let began = Instant::now();
    let times = orphans.iter().map(|task| {
        wait_for("the task's second worker", LIMIT, || {
            let status = status(url)?;
            let workers = status["workers"].as_array()?;
            // The dead one is shown at its task until its lease is over.
            let lives = |w: &&Value| !dead.iter().any(|name| w["worker"] == name.as_str());
            let mut living = workers.iter().filter(lives);
            living.find(|w| w["task"] == task.as_str()).map(|_| ())
        });
        began.elapsed()
    });
    report("a dead inferencer's task given to another", times.collect());
}

/// The task that the inferencer `name` had.
fn task_of(status: &Value, name: &str) -> Option<String> {
    let workers = status["workers"].as_array()?;
    let worker = workers
        .iter()
        .find(|w| w["worker"].as_str().is_some_and(|w| w.contains(name)))?;
    let task = worker["task"].as_str()?;
    (!task.is_empty()).then(|| task.to_owned())
}

/// Waits until this share of the tasks of generation 1 is done.
fn wait_until_refreshing(store: &RunStore, url: &str, share: f64) {
    wait_for("the middle of a refresh", LIMIT, || {
        assert!(
            store.generations().iter().all(|g| g.generation == 0),
            "the refresh was over too soon"
        );
        let open = &status(url)?["open"];
        let (done, tasks) = (open["tasks_done"].as_f64()?, open["tasks"].as_f64()?);
        (open["generation"] == 1 && done >= share * tasks).then_some(())
    });
}

fn throttle(pid: u32) -> Child {
    Command::new("cpulimit")
        .args(["--limit", SHARE, "--lazy", "--pid", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("cpulimit is missing: apt-get install cpulimit")
}

fn status(url: &str) -> Option<Value> {
    command(&["status", "--json", "--coordinator", url])
}

/// What `quarry` prints, if it succeeds.
fn command(arguments: &[&str]) -> Option<Value> {
    let output = Command::new(program("quarry"))
        .args(arguments)
        .output()
        .unwrap();
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).unwrap())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let seconds: Vec<String> = times
        .iter()
        .map(|t| format!("{:.1}", t.as_secs_f64()))
        .collect();
    println!("{what}: {} s", seconds.join(", "));
}
