//! Two coordinators on one run, started by hand as for several machines: each loses
//! the lead in the middle of a refresh, one suspended, one by `kill -9`, and trainer
//! and inferencer follow without a restart.
#![allow(clippy::unwrap_used)]

use quarry_testkit::{RunStore, Signal, Site, program, signal, wait_for};
use std::fs::{File, create_dir_all};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const STEPS: u64 = 120;
/// How long anything here may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// What is promised of a take-over.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(15);
/// What a coordinator says when it begins to lead.
const LEADS: &str = "took over the run";

/// A program of the run, with its log in the store's `logs`.
struct Program {
    name: &'static str,
    child: Child,
    store: RunStore,
}

impl Program {
    fn start(store: &RunStore, name: &'static str, program_name: &str, own: &[&str]) -> Self {
        let logs = store.folder().join("logs");
        create_dir_all(&logs).unwrap();
        let log = File::create(logs.join(format!("{name}.log"))).unwrap();
        let child = Command::new(program(program_name))
            .args(["--store", store.url()])
            .args(own)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let store = store.clone();
        Self { name, child, store }
    }

    /// A standby that is patient for 2 s, and its URL once it stands by.
    fn coordinator(store: &RunStore, name: &'static str) -> (Self, String) {
        let port = store.folder().join(format!("{name}.addr"));
        let own = [
            "--standby",
            "--takeover-after",
            "2",
            "--port-file",
            port.to_str().unwrap(),
        ];
        let started = Self::start(store, name, "quarry-coordinator", &own);
        let address = started.wait_for("its address", || std::fs::read_to_string(&port).ok());
        (started, format!("http://{}", address.trim()))
    }

    fn signal(&self, what: Signal) {
        assert!(signal(self.child.id(), what), "{} has ended", self.name);
    }

    fn wait_for<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        let said = std::panic::AssertUnwindSafe(|| wait_for(what, LIMIT, look));
        let log = || self.store.log(self.name);
        std::panic::catch_unwind(said)
            .unwrap_or_else(|_| panic!("no {what} of {}:\n{}", self.name, log()))
    }

    /// Waits until it has said `words` for the `n`th time.
    fn wait_until_said(&self, words: &str, n: usize) {
        self.wait_for(words, || {
            (self.store.log(self.name).matches(words).count() >= n).then_some(())
        });
    }

    fn ended(&mut self) -> ExitStatus {
        let (child, log) = (&mut self.child, self.store.log(self.name));
        let status = wait_for(self.name, LIMIT, || child.try_wait().unwrap());
        assert!(status.success(), "{} {status}:\n{log}", self.name);
        status
    }
}

#[test]
fn the_run_goes_on_under_one_leader_after_the_other() {
    let site = Site::new();
    let store = site.store("store");
    let steps = format!("train.max_steps={STEPS}");
    let prepare = [
        "prepare",
        "--data",
        site.data().to_str().unwrap(),
        "--model",
        site.model().to_str().unwrap(),
        "--recipe",
        site.recipe().to_str().unwrap(),
        "--store",
        store.url(),
        "--set",
        "data.shard_passages=4",
        "--set",
        "data.block_queries=8",
        "--set",
        &steps,
    ];
    let _ = site.quarry(&prepare).succeeded();

    let (first, first_url) = Program::coordinator(&store, "coordinator-a");
    first.wait_until_said(LEADS, 1);
    let (mut second, second_url) = Program::coordinator(&store, "coordinator-b");
    let both = format!("{first_url},{second_url}");
    let clients = |name: &str| {
        let cache = site.path(name).to_str().unwrap().to_owned();
        ["--coordinator", &both, "--threads", "1", "--cache", &cache].map(str::to_owned)
    };
    let own = clients("cache-inferencer");
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let mut inferencer = Program::start(&store, "inferencer-0", "quarry-inferencer", &own);
    let own = clients("cache-trainer");
    let losses = store.folder().join("losses.jsonl");
    let mut own: Vec<&str> = own.iter().map(String::as_str).collect();
    own.extend(["--losses", losses.to_str().unwrap()]);
    let mut trainer = Program::start(&store, "trainer", "quarry-trainer", &own);

    // A leader that is suspended, and comes back as a zombie.
    let open = |after: u64| {
        let refresh = || store.open_generation().filter(|g| *g > after);
        trainer.wait_for("a refresh", refresh)
    };
    let one = open(0);
    first.signal(Signal::Stop);
    let suspended = Instant::now();
    second.wait_until_said(LEADS, 1);
    println!("took over after {:.1} s", suspended.elapsed().as_secs_f64());
    assert!(suspended.elapsed() < TAKE_OVER_LIMIT);
    first.signal(Signal::Continue);
    first.wait_until_said("standing by again", 1);

    // A leader that dies.
    let two = open(one);
    second.signal(Signal::Kill);
    let killed = Instant::now();
    first.wait_until_said(LEADS, 2);
    println!("took over after {:.1} s", killed.elapsed().as_secs_f64());
    assert!(killed.elapsed() < TAKE_OVER_LIMIT);
    assert!(!second.child.wait().unwrap().success());

    trainer.ended();
    inferencer.ended();
    let status = ["status", "--json", "--coordinator", &both];
    let status = site.quarry(&status).succeeded().json();
    assert_eq!(
        (&status["epoch"], &status["finished"]),
        (&3.into(), &true.into())
    );
    first.signal(Signal::Interrupt);
    let mut first = first;
    first.ended();
    store.losses().assert_steps(STEPS);
    store.assert_generations_complete();
    let numbers: Vec<u64> = store.generations().iter().map(|g| g.generation).collect();
    let all: Vec<u64> = (0..numbers.len() as u64).collect();
    assert_eq!(numbers, all, "a generation was lost");
    assert!(
        numbers.contains(&one) && numbers.contains(&two),
        "{numbers:?}"
    );
}
