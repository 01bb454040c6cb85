//! Bad input through the real command line: each is refused with one sentence
//! that names what is wrong and where, with an exit code that is not 0, and with
//! nothing half-published.
#![allow(clippy::unwrap_used)]

use quarry_testkit::{Finished, Site, processes_naming};
use std::fs;
use std::path::Path;

/// Asserts that the sentence of refusal has every one of `words` in it.
fn assert_says(finished: &Finished, words: &[&str]) {
    let said = finished.refusal();
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

/// A new run that must be refused before it begins: no `run.json`, no process.
fn assert_run_refused(site: &Site, arguments: &[&str], words: &[&str]) {
    let store = site.store("refused");
    assert_says(&site.start("refused", arguments).wait(), words);
    assert!(
        !store.folder().join("run.json").exists(),
        "a refused run was published"
    );
    assert_eq!(processes_naming(store.folder()), [], "left behind");
    let _ = fs::remove_dir_all(store.folder());
}

/// Replaces the first `old` of a file.
fn edit(path: &Path, old: &str, new: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(old), "{} has no {old}", path.display());
    fs::write(path, text.replacen(old, new, 1)).unwrap();
}

/// Flips one bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut permissions = fs::metadata(path).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false)] // A test's own file.
    permissions.set_readonly(false);
    fs::set_permissions(path, permissions).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn recipes() {
    let site = Site::new();
    edit(&site.recipe(), "batch_size", "bach_size");
    assert_run_refused(
        &site,
        &[],
        &[
            "recipe.toml",
            "`train.bach_size`",
            "did you mean `batch_size`",
        ],
    );
    edit(&site.recipe(), "bach_size = 8", "batch_size = \"many\"");
    assert_run_refused(&site, &[], &["`train.batch_size`"]);
    edit(&site.recipe(), "batch_size = \"many\"", "batch_size = 8");
    assert_run_refused(
        &site,
        &["--set", "mining.keep=500"],
        &["`mining.keep`", "mining.depth"],
    );
    assert_run_refused(
        &site,
        &["--set", "train.passage_length=512"],
        &["`train.passage_length`", "64", "lower"],
    );
    assert_run_refused(
        &site,
        &["--set", "train.optimizr=lamb"],
        &["--set", "`train.optimizr`", "`optimizer`"],
    );
    assert_run_refused(
        &site,
        &["--set", "name=../../evil"],
        &["`name`", "../../evil"],
    );
    assert_run_refused(
        &site,
        &["--set", "data.dev=../dev"],
        &["`data.dev`", "\"../dev\""],
    );
    fs::remove_file(site.recipe()).unwrap();
    assert_run_refused(&site, &[], &["recipe.toml", "cannot read"]);
}

#[test]
fn an_index_that_cannot_be_built() {
    let site = Site::new();
    assert_run_refused(
        &site,
        &["--set", "index.kind=IVFx,Flatt"],
        &["index.kind", "IVFx,Flatt"],
    );
}

#[test]
fn models() {
    let site = Site::new();
    let weights = site.model().join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    assert_run_refused(&site, &[], &["model.safetensors"]);
    fs::write(&weights, b"").unwrap();
    assert_run_refused(&site, &[], &["model.safetensors"]);
    fs::write(&weights, &whole).unwrap();
    edit(
        &site.model().join("config.json"),
        "\"intermediate_size\":64",
        "\"intermediate_size\":128",
    );
    assert_run_refused(
        &site,
        &[],
        &["model.safetensors", "intermediate", "64", "128"],
    );
    edit(
        &site.model().join("config.json"),
        "\"model_type\":\"bert\"",
        "\"model_type\":\"mamba\"",
    );
    assert_run_refused(&site, &[], &["config.json", "mamba"]);
    fs::remove_file(&weights).unwrap();
    edit(&site.model().join("config.json"), "mamba", "bert");
    assert_run_refused(&site, &[], &["no model.safetensors"]);
    fs::remove_dir_all(site.model()).unwrap();
    assert_run_refused(&site, &[], &["no model at"]);
    let encode = [
        "encode",
        "--model",
        "no-such-folder",
        "--input",
        "x.jsonl",
        "--output",
        "y.safetensors",
    ];
    assert_says(&site.quarry(&encode), &["no-such-folder"]);
}

#[test]
fn collections() {
    let site = Site::new();
    let corpus = site.data().join("corpus.jsonl");
    let text = fs::read_to_string(&corpus).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let third = lines[2];

    lines[2] = r#"{"_id": "broken", "text": "no end"#;
    fs::write(&corpus, lines.join("\n")).unwrap();
    assert_run_refused(&site, &[], &["line 3", "corpus.jsonl is malformed"]);
    lines[2] = lines[1];
    fs::write(&corpus, lines.join("\n")).unwrap();
    assert_run_refused(
        &site,
        &[],
        &["line 3", "corpus.jsonl repeats the passage id"],
    );
    lines[2] = r#"{"_id": "empty", "title": "", "text": "  "}"#;
    fs::write(&corpus, lines.join("\n")).unwrap();
    assert_run_refused(
        &site,
        &[],
        &[
            "line 3",
            "corpus.jsonl has no text for the passage \"empty\"",
        ],
    );
    lines[2] = third;
    fs::write(&corpus, lines.join("\n")).unwrap();

    let train = site.data().join("qrels/train.tsv");
    let judgements = fs::read_to_string(&train).unwrap();
    fs::write(&train, format!("{judgements}no-such-query\tNormans#0\t1\n")).unwrap();
    assert_run_refused(
        &site,
        &[],
        &[
            "line 82",
            "train.tsv names the unknown query \"no-such-query\"",
        ],
    );
    fs::remove_file(&train).unwrap();
    assert_run_refused(&site, &[], &["the split train is missing"]);
    fs::remove_dir_all(site.data()).unwrap();
    assert_run_refused(&site, &[], &["no collection at"]);
    fs::create_dir(site.data()).unwrap();
    assert_run_refused(&site, &[], &["a collection is missing", "(beir)"]);
}

#[test]
fn a_run_beside_another_takes_a_free_port() {
    let site = Site::new();
    // Somebody is there, be it this test or a run of this machine's user.
    let usual = "127.0.0.1:7600";
    let _taken = std::net::TcpListener::bind(usual);
    let run = site.start_at("beside", None, &[]);
    let url = run.coordinator();
    assert!(!url.ends_with(usual), "{url}");
    run.wait_for("trainer", || run.process("quarry-trainer"));
    run.interrupt();
    assert_eq!(run.wait().code, Some(130));
}

#[test]
fn addresses() {
    let site = Site::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let refused = site.start_at("busy", Some(&port), &[]).wait();
    assert_says(&refused, &[&port, "in use"]);
    assert_eq!(
        processes_naming(site.store("busy").folder()),
        [],
        "left behind"
    );
    // What was prepared is kept, and a free port is all that was missing.
    assert_says(
        &site.start("busy", &[]).wait(),
        &["already holds a run", "--resume"],
    );

    // Somebody is there and says nothing.
    let silent = site.quarry(&["status", "--coordinator", &port]);
    assert_says(&silent, &[&port, "no answer in 10 s"]);

    drop(taken);
    let nobody = format!("http://{port}");
    for command in ["status", "generations"] {
        assert_says(&site.quarry(&[command, "--coordinator", &nobody]), &[&port]);
    }
    assert_says(
        &site.quarry(&["rollback", "0", "--coordinator", &nobody]),
        &[&port],
    );
    assert_says(
        &site.quarry(&["status", "--coordinator", "not a url"]),
        &["not a url"],
    );
    let (cache, store) = (site.path("cache"), site.store("busy"));
    let trainer = [
        "--coordinator",
        &nobody,
        "--store",
        store.url(),
        "--cache",
        cache.to_str().unwrap(),
    ];
    assert_says(&site.command("quarry-trainer", &trainer), &[&port]);
    let no_store = site.path("nothing-here");
    assert_says(
        &site.resume("nothing-here", &[]).wait(),
        &["nothing to resume", "nothing-here"],
    );
    assert!(!no_store.exists(), "a mistyped store was made");
    for command in [&["search", "text"][..], &["export", "--output", "out"]] {
        let refused = site.quarry(&[command, &["--store", no_store.to_str().unwrap()]].concat());
        assert_says(&refused, &["nothing-here"]);
    }
}

#[test]
fn a_coordinator_without_a_store() {
    let site = Site::new();
    let store = site.path("nothing-here");
    let coordinator = [
        "--store",
        store.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
    ];
    assert_says(
        &site.command("quarry-coordinator", &coordinator),
        &["nothing-here"],
    );
}

#[test]
fn a_corrupt_shard_in_the_store() {
    let site = Site::new();
    let store = site.store("store");
    let run = site.start("store", &[]);
    run.wait_for("a checkpoint and a dense generation", || {
        (store.newest_checkpoint() >= 10 && store.generations().len() >= 2).then_some(())
    });
    run.interrupt();
    assert_eq!(run.wait().code, Some(130));
    let corpus = fs::read_dir(store.folder().join("corpus"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    flip(&corpus.join("shard-00001.arrow"));
    // A copy in a cache, made when the shard was whole, would still serve.
    fs::remove_dir_all(store.folder().join("cache")).unwrap();
    let (before, steps) = (store.newest_checkpoint(), store.losses());
    let refused = site.resume("store", &[]).wait();
    assert_says(&refused, &["shard-00001.arrow", "sha256"]);
    assert_eq!(processes_naming(store.folder()), [], "left behind");
    assert_eq!(
        (store.newest_checkpoint(), store.losses()),
        (before, steps),
        "something was lost"
    );
    store.assert_generations_complete();
    assert_says(
        &site.quarry(&["search", "--store", store.url(), "text"]),
        &["shard-00001.arrow"],
    );
}

#[test]
fn a_corrupt_checkpoint_in_the_store() {
    let site = Site::new();
    let store = site.store("store");
    let run = site.start(
        "store",
        &[
            "--set",
            "refresh.max_staleness=0",
            "--set",
            "train.max_steps=600",
        ],
    );
    run.wait_for("checkpoints", || {
        (store.newest_checkpoint() >= 20).then_some(())
    });
    run.interrupt();
    assert_eq!(run.wait().code, Some(130));
    let checkpoints = store.checkpoints();
    let (newest, before) = (
        checkpoints[checkpoints.len() - 1],
        checkpoints[checkpoints.len() - 2],
    );
    flip(&store.checkpoint_folder(newest).join("model.safetensors"));
    fs::remove_dir_all(store.folder().join("cache")).unwrap();
    let output = site.path("exported");
    let export = [
        "export",
        "--store",
        store.url(),
        "--output",
        output.to_str().unwrap(),
    ];
    assert_says(&site.quarry(&export), &["model.safetensors", "sha256"]);
    assert!(!output.exists(), "half an export was left");
    // The trainer passes over the damaged one, says so, and goes on from the one before.
    let _ = site.resume("store", &[]).wait().succeeded();
    let log = store.log("trainer");
    assert!(log.contains(&format!("step={before} total=600")), "{log}");
    assert!(
        log.lines()
            .any(|l| l.contains("WARN") && l.contains("model.safetensors")),
        "{log}"
    );
    store.losses().assert_steps(600);
}

/// The trainer may wait for a generation; it must not wait for one that cannot come.
#[test]
fn a_run_that_cannot_get_fresher_negatives_ends() {
    let site = Site::new();
    let run = site.start("store", &["--set", "index.kind=IVF9999,Flat"]);
    assert_says(&run.wait(), &["IVF9999,Flat"]);
    assert_eq!(
        processes_naming(site.store("store").folder()),
        [],
        "left behind"
    );
}

#[test]
fn usage() {
    let site = Site::new();
    for arguments in [
        &["run"][..],
        &["frobnicate"],
        &["eval", "--data", "d"],
        &["search", "--store", "s"],
    ] {
        let refused = site.quarry(arguments);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(
            refused.stderr.starts_with("error: ") && refused.stdout.is_empty(),
            "{refused:?}"
        );
    }
    let help = site.quarry(&["--help"]).succeeded().stdout;
    assert!(help.starts_with("Trains dense retrievers"), "{help}");
    for program in [
        "quarry",
        "quarry-coordinator",
        "quarry-inferencer",
        "quarry-trainer",
    ] {
        assert!(
            site.command(program, &["--help"])
                .succeeded()
                .stdout
                .contains("Usage: "),
            "{program}"
        );
    }
}
