//! The program itself: a task from lease to completion, a signal, bad options.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_proto::{Lease, Role, TaskOutput, Work};
use quarry_testkit::coordinator::{Script, Stub};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::{TinyRun, train};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quarry-inferencer"));
    command
        .env("OMP_WAIT_POLICY", "passive")
        .env_remove("RUST_LOG");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

struct Fixture {
    tiny: TinyRun,
    script: Script,
    stub: Stub,
}

impl Fixture {
    fn new() -> Self {
        let script = Script::default();
        let stub = Stub::start(&script);
        Self {
            tiny: TinyRun::new(|_| ()),
            script,
            stub,
        }
    }

    fn lease(&self, id: u64, work: Work) {
        let task = self.tiny.task(work);
        let lease = Lease {
            id,
            attempt: 1,
            epoch: 1,
            duration_ms: 20_000,
            task,
        };
        self.script.orders().leases.push_back(lease.into());
    }

    fn start(&self) -> Child {
        let folder = self.tiny.store.local_folder().unwrap();
        program()
            .args([
                "--coordinator",
                &self.stub.url(),
                "--device",
                "cpu",
                "--threads",
                "1",
            ])
            .args(["--name", "worker-a", "--health-listen", "127.0.0.1:0"])
            .arg("--store")
            .arg(folder)
            .arg("--cache")
            .arg(self.tiny.folder.path().join("process-cache"))
            .spawn()
            .unwrap()
    }
}

/// Waits at most 60 s; a program that hangs fails the test.
fn end(mut child: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn it_does_its_tasks_and_exits_with_0_when_the_run_is_finished() {
    let mut fixture = Fixture::new();
    fixture.lease(1, Work::EncodeShard { shard: 2 });
    fixture.lease(2, Work::EncodeShard { shard: 9 });
    fixture.lease(
        3,
        Work::MineSparse {
            block: train(),
            evaluate: false,
        },
    );
    let output = end(fixture.start());
    let log = words(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(output.stdout.is_empty());
    assert!(
        log.contains("task done") && log.contains("encode shard 2") && log.contains("items=10"),
        "{log}"
    );
    let heard = fixture.script.heard();
    assert_eq!(
        heard.completed.iter().map(|c| c.lease).collect::<Vec<_>>(),
        [1, 3]
    );
    assert!(heard.returned[0].failed && heard.returned[0].reason.contains("3 shards"));
    // What the process published is what this one makes.
    let made = TaskOutput::try_from(heard.completed[0].output.clone().unwrap()).unwrap();
    drop(heard);
    let here = fixture
        .tiny
        .make(Work::EncodeShard { shard: 2 }, Role::Embeddings);
    assert_eq!(made.outputs, [(Role::Embeddings, here)]);
}

#[test]
fn it_exits_with_0_on_sigterm() {
    let fixture = Fixture::new();
    fixture.script.orders().open = true;
    fixture.lease(1, Work::EncodeShard { shard: 0 });
    let child = fixture.start();
    let deadline = Instant::now() + Duration::from_secs(30);
    while fixture.script.heard().completed.is_empty() {
        assert!(Instant::now() < deadline, "the task was not done");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = end(child);
    assert!(output.status.success(), "{}", words(&output.stderr));
}

#[test]
fn a_bad_store_or_device_fails_with_one_sentence() {
    let run = |store: &str, device: &str| {
        let arguments = [
            "--coordinator",
            "http://127.0.0.1:9",
            "--store",
            store,
            "--device",
            device,
        ];
        end(program().args(arguments).spawn().unwrap())
    };
    let output = run("/does/not/exist", "cpu");
    assert_eq!(output.status.code(), Some(1));
    let log = words(&output.stderr);
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("/does/not/exist"), "{log}");
    let output = run("/does/not/exist", "gpu");
    assert_eq!(output.status.code(), Some(2));
    assert!(words(&output.stderr).contains("cuda:N"));
}

#[test]
fn a_coordinator_that_never_answers_is_given_up_with_its_address() {
    let tiny = TinyRun::new(|_| ());
    let child = program()
        .args(["--coordinator", "http://127.0.0.1:9", "--patience", "1"])
        .args(["--device", "cpu", "--threads", "1"])
        .arg("--store")
        .arg(tiny.store.local_folder().unwrap())
        .arg("--cache")
        .arg(tiny.folder.path().join("process-cache"))
        .spawn()
        .unwrap();
    let output = end(child);
    assert_eq!(output.status.code(), Some(1));
    let log = words(&output.stderr);
    let last = log.lines().last().unwrap();
    for word in [
        "quarry-inferencer: no coordinator",
        "http://127.0.0.1:9",
        "1 s",
        "--patience",
    ] {
        assert!(last.contains(word), "`{word}` is not in: {log}");
    }
}

#[test]
fn the_help_teaches() {
    let output = end(program().arg("--help").spawn().unwrap());
    let help = words(&output.stdout);
    for word in [
        "--coordinator",
        "--store",
        "--patience",
        "OMP_WAIT_POLICY",
        "Example",
        "SIGTERM",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
