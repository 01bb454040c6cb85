//! What the readers take, and what they refuse, naming the file and the line.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use proptest::prelude::*;
use quarry_eval::{EvalError, Run, read_qrels, read_run, write_run};

fn written(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("file.tsv");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn qrels_of_every_layout_read_alike() {
    let folder = tempfile::tempdir().unwrap();
    let layouts = [
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t0\n",
        "\u{feff}query-id\tcorpus-id\tscore\r\nq1\td1\t1\r\nq2\td2\t0\r\n\r\n",
        "q1 0 d1 1\nq2   0 d2 0\n",
        "q1\t0\td1\t1\nq2\t0\td2\t0",
        "q1\td1\t1.0\nq2\td2\t0\n",
    ];
    let first = read_qrels(written(&folder, layouts[0])).unwrap();
    assert_eq!(first.len(), 2);
    for layout in layouts {
        assert_eq!(
            read_qrels(written(&folder, layout)).unwrap(),
            first,
            "{layout:?}"
        );
    }
}

#[test]
fn tabs_keep_ids_with_spaces() {
    let folder = tempfile::tempdir().unwrap();
    let qrels = read_qrels(written(&folder, "q 1\td 1\t2\n")).unwrap();
    assert_eq!(qrels.get("q 1").unwrap()["d 1"], 2);
}

fn message(result: Result<impl std::fmt::Debug, EvalError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn bad_qrels_are_refused_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    for (text, line) in [
        ("q1 0 d1 1\nq1 0\n", 2),
        ("q1 0 d1 yes\n", 1),
        ("q1 0 d1 1\n\nq1 0 d1 1\n", 3),
        ("q1\t\t1\n", 1),
        ("q1 0 d1 1\nquery-id corpus-id score\n", 2),
    ] {
        let message = message(read_qrels(written(&folder, text)));
        assert!(message.contains(&format!("file.tsv:{line}: ")), "{message}");
    }
}

#[test]
fn a_line_that_is_not_utf8_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latin1.tsv");
    std::fs::write(&path, b"q1 0 d1 1\nq2 0 d\xe9 1\n").unwrap();
    let message = message(read_qrels(&path));
    assert!(
        message.contains("latin1.tsv:2: it is not UTF-8"),
        "{message}"
    );
}

#[test]
fn bad_runs_are_refused_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = "q Q0 d1 1 2.5 tag\n";
    for bad in [
        "q Q0 d1 2 1.5 tag",
        "q Q0 d2 2 1.5",
        "q Q0 d2 2 high tag",
        "q Q0 d2 2 NaN tag",
    ] {
        let message = message(read_run(written(&folder, &format!("{good}{bad}\n"))));
        assert!(message.contains("file.tsv:2: "), "{message}");
    }
    assert!(message(read_run(folder.path().join("absent.run"))).contains("absent.run"));
}

#[test]
fn a_file_that_does_not_decompress_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.gz");
    let mut run = Run::default();
    run.insert("q", "d", 1.0).unwrap();
    write_run(&path, &run, "tag").unwrap();
    let whole = std::fs::read(&path).unwrap();
    for broken in [&whole[..whole.len() - 9], b"q Q0 d 1 1.0 tag\n"] {
        std::fs::write(&path, broken).unwrap();
        let message = message(read_run(&path));
        assert!(
            message.contains("run.gz to its end: ") && message.contains("truncated or not gzip"),
            "{message}"
        );
    }
}

#[test]
fn ids_a_run_cannot_hold_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::default();
    run.insert("q", "d 1", 1.0).unwrap();
    let path = folder.path().join("run");
    assert!(matches!(
        write_run(&path, &run, "tag"),
        Err(EvalError::UnwritableId { .. })
    ));
    assert!(matches!(
        write_run(&path, &Run::default(), "a tag"),
        Err(EvalError::UnwritableId { .. })
    ));
    let mut run = Run::default();
    run.insert("\u{feff}q", "d", 1.0).unwrap();
    assert!(matches!(
        write_run(&path, &run, "tag"),
        Err(EvalError::UnwritableId { .. })
    ));
    assert!(!path.exists());
}

#[test]
fn a_ranking_keeps_its_order() {
    let mut run = Run::default();
    run.insert_ranking("q", ["b", "c", "a"].into_iter())
        .unwrap();
    let order: Vec<&str> = run
        .ranking("q")
        .into_iter()
        .map(|(document, _)| document)
        .collect();
    assert_eq!(order, ["b", "c", "a"]);
}

proptest! {
    #[test]
    fn any_run_survives_the_file(scores in prop::collection::btree_map("[a-zé#]{1,6}", -1e30f32..1e30, 0..20)) {
        let folder = tempfile::tempdir().unwrap();
        let mut run = Run::default();
        for (document, score) in &scores {
            run.insert("q", document, *score).unwrap();
        }
        let path = folder.path().join("run.gz");
        write_run(&path, &run, "t").unwrap();
        let read = read_run(&path).unwrap();
        prop_assert_eq!(read.ranking("q"), run.ranking("q"));
    }
}
