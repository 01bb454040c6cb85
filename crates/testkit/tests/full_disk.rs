//! A really full disk: the store lies on a small file system of its own, which is
//! filled while the run goes on.
//!
//! To mount one, the test runs itself again in a mount namespace (`unshare`), as
//! root or in a user namespace. Where the system allows neither, it says so and
//! ends; the store's behaviour with a failing disk is also tested in crates/artifacts.
#![allow(clippy::unwrap_used)]

use quarry_testkit::{RunStore, Running, Site};
use std::fs::{File, remove_file};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

const STEPS: u64 = 90;

/// Training that waits for nobody and ends with a checkpoint that cannot be written.
const FREE: [&str; 4] = [
    "--set",
    "refresh.on_stale=warn",
    "--set",
    "train.max_steps=400",
];
const FREE_STEPS: u64 = 400;

/// Set inside the namespace.
const INSIDE: &str = "QUARRY_TEST_MOUNTS";

/// Runs the test `name` of this file again where file systems can be mounted.
/// True inside, where the caller goes on.
fn can_mount(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let namespaces: [&[&str]; 2] = [&["--mount"], &["--mount", "--user", "--map-root-user"]];
    let works = |flags: &&&[&str]| {
        let script = "mount -t tmpfs -o size=1m tmpfs /mnt";
        let probe = Command::new("unshare")
            .args(**flags)
            .args(["sh", "-c", script])
            .output();
        probe.is_ok_and(|output| output.status.success())
    };
    let Some(flags) = namespaces.iter().find(works) else {
        eprintln!("SKIPPED {name}: this system lets nobody mount a file system");
        return false;
    };
    let status = Command::new("unshare")
        .args(*flags)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "it failed on a file system of its own");
    false
}

/// A site whose folder `disk` is a file system of 256 MiB.
fn site_with_a_small_disk() -> Site {
    let site = Site::new();
    let disk = site.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=256m", "tmpfs"];
    let status = Command::new("mount").args(mount).arg(&disk).status();
    assert!(status.unwrap().success());
    site
}

/// Fills the file system of `file` to the last byte.
fn fill(file: &Path) {
    let mut filler = File::create(file).unwrap();
    let mut piece = vec![1_u8; 1 << 20];
    while !piece.is_empty() {
        match filler.write_all(&piece) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::StorageFull => {
                let half = piece.len() / 2;
                piece.truncate(half);
            }
            Err(e) => panic!("{}: {e}", file.display()),
        }
    }
}

/// Waits until the run has a dense generation and a checkpoint, then fills the disk.
fn fill_in_mid_run(run: &Running, store: &RunStore, filler: &Path, steps: u64) {
    run.wait_for("a dense generation", || {
        (store.generations().len() >= 2 && store.newest_checkpoint() >= 10).then_some(())
    });
    fill(filler);
    assert!(
        store.newest_checkpoint() < steps,
        "the run was over before the disk was full"
    );
}

#[test]
fn training_outlasts_a_full_disk() {
    if !can_mount("training_outlasts_a_full_disk") {
        return;
    }
    let site = site_with_a_small_disk();
    let (store, filler) = (site.store("disk/store"), site.path("disk/filler"));
    let run = site.start("disk/store", &[]);
    fill_in_mid_run(&run, &store, &filler, STEPS);
    run.wait_for("the trainer to say so", || {
        store.log("trainer").contains("No space left").then_some(())
    });
    // By the coordinator, unless the disk is full in the middle of a record of its own.
    run.wait_for("it to be shown", || {
        let status = site.quarry(&["status", "--coordinator", &run.coordinator()]);
        let said = run.said().contains("no space left on the disk of");
        (said || status.stdout.contains("No space left")).then_some(())
    });
    remove_file(&filler).unwrap();
    let _ = run.wait().succeeded();
    assert_eq!(store.newest_checkpoint(), STEPS);
    store.assert_generations_complete();
}

#[test]
fn a_disk_that_stays_full_ends_the_run_with_a_sentence_and_loses_nothing() {
    if !can_mount("a_disk_that_stays_full_ends_the_run_with_a_sentence_and_loses_nothing") {
        return;
    }
    let site = site_with_a_small_disk();
    let (store, filler) = (site.store("disk/store"), site.path("disk/filler"));
    let run = site.start("disk/store", &FREE);
    fill_in_mid_run(&run, &store, &filler, FREE_STEPS);
    let finished = run.wait();
    let refusal = finished.refusal();
    for words in ["the trainer", "--resume"] {
        assert!(refusal.contains(words), "`{words}` is not in: {refusal}");
    }
    // In the store, or in the folder where the checkpoint is put together.
    let said = ["no space left on the disk of", "No space left on device"];
    assert!(
        said.iter().any(|words| refusal.contains(words)),
        "{refusal}"
    );
    store.assert_generations_complete();

    remove_file(&filler).unwrap();
    let _ = site.resume("disk/store", &FREE).wait().succeeded();
    assert_eq!(store.newest_checkpoint(), FREE_STEPS);
    store.losses().assert_steps(FREE_STEPS);
    store.assert_generations_complete();
}
