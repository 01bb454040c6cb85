//! Signals and logs of a real process: this test program starts itself again in
//! the role named by `QUARRY_TEST_ROLE`.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quarry_service::{signals, telemetry, threads};

/// Not a test of its own: the child process's main function.
#[test]
fn child() {
    let Ok(role) = std::env::var("QUARRY_TEST_ROLE") else {
        return;
    };
    telemetry::init("quarry-test", role == "json");
    telemetry::init("quarry-test", false);
    if role == "json" || role == "plain" {
        tracing::info!(step = 7, "a thing happened");
        tracing::debug!("not shown");
        return;
    }
    threads::runtime("quarry-test", 1).unwrap().block_on(async {
        let stop = signals::shutdown().unwrap();
        println!("\nready");
        stop.cancelled().await;
        println!("\nstopping");
        if role == "stubborn" {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    });
}

fn start(role: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("QUARRY_TEST_ROLE", role)
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_for(child: &mut Child, word: &str, out: &mut impl BufRead) {
    let mut line = String::new();
    while line.trim() != word {
        line.clear();
        assert_ne!(
            out.read_line(&mut line).unwrap(),
            0,
            "{child:?} ended before {word:?}"
        );
    }
}

fn send(child: &Child, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn the_first_signal_asks_and_the_second_ends() {
    for (first, second, code) in [
        ("-TERM", "-TERM", 143),
        ("-INT", "-TERM", 143),
        ("-TERM", "-INT", 130),
    ] {
        let mut child = start("stubborn");
        let mut out = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut child, "ready", &mut out);
        send(&child, first);
        wait_for(&mut child, "stopping", &mut out);
        send(&child, second);
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn one_signal_is_a_clean_end() {
    let mut child = start("obliging");
    let mut out = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut child, "ready", &mut out);
    send(&child, "-INT");
    wait_for(&mut child, "stopping", &mut out);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn logs_go_to_stderr_plain_or_as_json() {
    let plain = start("plain").wait_with_output().unwrap();
    let log = String::from_utf8(plain.stderr).unwrap();
    assert!(
        log.contains("INFO") && log.contains("a thing happened step=7"),
        "{log}"
    );
    assert!(
        !log.contains('\u{1b}') && !log.contains("not shown"),
        "{log}"
    );
    assert!(!String::from_utf8(plain.stdout).unwrap().contains("a thing"));
    let json = start("json").wait_with_output().unwrap();
    let log = String::from_utf8(json.stderr).unwrap();
    let line = log
        .lines()
        .find(|line| line.contains("a thing happened"))
        .unwrap();
    assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    assert!(
        line.contains("\"step\":7") && line.contains("\"level\":\"INFO\""),
        "{line}"
    );
}
