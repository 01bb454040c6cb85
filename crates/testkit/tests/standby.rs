//! Two coordinators on one run, started by hand as for several machines: each loses
//! the lead in the middle of a refresh, one suspended, one by `kill -9`, and trainer
//! and inferencer follow without a restart.
#![allow(clippy::unwrap_used)]

use quarry_testkit::{RunStore, Signal, Site, program, signal, wait_for};
use std::fs::{File, create_dir_all};
use std::process::{Child, Command, Stdio};
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

    /// Waits for its end.
    fn assert_succeeds(&mut self) {
        let child = &mut self.child;
        let status = wait_for(self.name, LIMIT, || child.try_wait().unwrap());
        let log = self.store.log(self.name);
        assert!(
            status.success(),
            "{} ended with {status}:\n{log}",
            self.name
        );
    }
}

/// Sets up a run in `store`: small shards and blocks, so that there is a middle of a
/// refresh.
fn prepare(site: &Site, store: &RunStore) {
    let (data, model, recipe) = (site.data(), site.model(), site.recipe());
    let steps = format!("train.max_steps={STEPS}");
    let inputs = [
        ("--data", &data),
        ("--model", &model),
        ("--recipe", &recipe),
    ];
    let mut command = vec!["prepare", "--store", store.url()];
    command.extend(
        inputs
            .iter()
            .flat_map(|(key, path)| [*key, path.to_str().unwrap()]),
    );
    for setting in ["data.shard_passages=4", "data.block_queries=8", &steps] {
        command.extend(["--set", setting]);
    }
    let _ = site.quarry(&command).succeeded();
}

/// Starts the inferencer and the trainer of `coordinators`.
fn start_clients(site: &Site, store: &RunStore, coordinators: &str) -> [Program; 2] {
    let losses = store.folder().join("losses.jsonl");
    let losses = ["--losses", losses.to_str().unwrap()];
    let programs: [(_, _, &[&str]); 2] = [
        ("inferencer-0", "quarry-inferencer", &[]),
        ("trainer", "quarry-trainer", &losses),
    ];
    programs.map(|(name, program, own)| {
        let cache = site.path(&format!("cache-{name}"));
        let shared = [
            ["--coordinator", coordinators],
            ["--threads", "1"],
            ["--cache", cache.to_str().unwrap()],
        ];
        Program::start(store, name, program, &[shared.as_flattened(), own].concat())
    })
}

/// Waits until `standby` has begun to lead for the `n`th time, since now.
fn assert_takes_over(standby: &Program, n: usize) {
    let began = Instant::now();
    standby.wait_until_said(LEADS, n);
    let took = began.elapsed();
    println!("{} led after {:.1} s", standby.name, took.as_secs_f64());
    assert!(took < TAKE_OVER_LIMIT, "{took:?}");
}

#[test]
fn the_run_goes_on_under_one_leader_after_the_other() {
    let site = Site::new();
    let store = site.store("store");
    prepare(&site, &store);
    let (mut first, first_url) = Program::coordinator(&store, "coordinator-a");
    first.wait_until_said(LEADS, 1);
    let (mut second, second_url) = Program::coordinator(&store, "coordinator-b");
    let both = format!("{first_url},{second_url}");
    let [mut inferencer, mut trainer] = start_clients(&site, &store, &both);
    let refresh = |after: u64| {
        let open = || store.open_generation().filter(|g| *g > after);
        trainer.wait_for("a refresh", open)
    };

    // A leader that is suspended, and comes back as a zombie.
    let one = refresh(0);
    first.signal(Signal::Stop);
    assert_takes_over(&second, 1);
    first.signal(Signal::Continue);
    first.wait_until_said("standing by again", 1);

    // A leader that dies.
    let two = refresh(one);
    second.signal(Signal::Kill);
    assert_takes_over(&first, 2);
    assert!(!second.child.wait().unwrap().success());

    trainer.assert_succeeds();
    inferencer.assert_succeeds();
    let status = ["status", "--json", "--coordinator", &both];
    let status = site.quarry(&status).succeeded().json();
    assert_eq!(
        (status["epoch"].as_u64(), status["finished"].as_bool()),
        (Some(3), Some(true))
    );
    first.signal(Signal::Interrupt);
    first.assert_succeeds();
    store.losses().assert_steps(STEPS);
    store.assert_generations_complete();
    let numbers: Vec<u64> = store.generations().iter().map(|g| g.generation).collect();
    let all: Vec<u64> = (0..numbers.len() as u64).collect();
    assert_eq!(numbers, all, "a generation was lost");
    assert!(two < numbers.len() as u64, "{numbers:?}");
}
