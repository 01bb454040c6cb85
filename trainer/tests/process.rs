//! The real program: signals, kill −9, and one clear sentence on failure.
#![allow(clippy::unwrap_used)]

mod support;

use quarry_testkit::coordinator::{Script, Stub};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{TinyRun, all_others, turn};

fn start(run: &TinyRun, url: &str, more: &[&str]) -> Child {
    let options = run.options(url);
    Command::new(env!("CARGO_BIN_EXE_quarry-trainer"))
        .args([
            "--coordinator",
            url,
            "--store",
            &options.store,
            "--device",
            "cpu",
            "--threads",
            "1",
        ])
        .args(["--cache".as_ref(), options.cache.unwrap().as_os_str()])
        .args(["--losses".as_ref(), run.losses().as_os_str()])
        .args(more)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn until_step(run: &TinyRun, step: usize) {
    let started = Instant::now();
    while std::fs::read_to_string(run.losses()).map_or(0, |t| t.lines().count()) <= step {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "step {step} was not reached"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_killed_run_resumes_to_the_bits_of_an_uninterrupted_one() {
    let _turn = turn();
    let recipe = |r: &mut quarry_recipe::Recipe| {
        r.train.max_steps = 150;
        r.train.checkpoint_every = 10;
    };
    let finish = |run: &TinyRun, script: &Script, url: &str, more: &[&str]| {
        let output = start(run, url, more).wait_with_output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");
        let heard = script.heard();
        let last = heard.checkpoints.last().unwrap().clone();
        assert!(last.r#final);
        last.checkpoint.unwrap().digest
    };
    let begin = |run: &TinyRun| {
        let script = Script::default();
        script.announce(&run.generation(1, 0, all_others));
        let stub = Stub::start(&script);
        (script, stub)
    };
    let straight = TinyRun::new(recipe);
    let (script, stub) = begin(&straight);
    let digest = finish(&straight, &script, &stub.url(), &[]);

    let run = TinyRun::new(recipe);
    let (script, stub) = begin(&run);
    let mut child = start(&run, &stub.url(), &[]);
    until_step(&run, 60);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = start(&run, &stub.url(), &["--resume"]);
    until_step(&run, 90);
    signal(&child, "-TERM");
    assert!(
        child.wait().unwrap().success(),
        "SIGTERM publishes and exits 0"
    );
    assert_eq!(finish(&run, &script, &stub.url(), &["--resume"]), digest);
    let losses = |run: &TinyRun| {
        run.lines()
            .iter()
            .map(|l| (l.step, l.loss))
            .collect::<Vec<_>>()
    };
    assert_eq!(losses(&run), losses(&straight));
}

#[test]
fn failures_are_one_sentence() {
    let _turn = turn();
    let run = TinyRun::new(|_| {});
    let elsewhere = run.folder.path().join("nothing");
    let output = Command::new(env!("CARGO_BIN_EXE_quarry-trainer"))
        .args([
            "--coordinator",
            "http://127.0.0.1:9",
            "--device",
            "cpu",
            "--store",
        ])
        .arg(&elsewhere)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("nothing"), "{text}");
    let help = Command::new(env!("CARGO_BIN_EXE_quarry-trainer"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(
        help.contains("Examples:") && help.contains("--resume"),
        "{help}"
    );
}
