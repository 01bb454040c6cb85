//! What holds for any bytes given as a TREC file; shared with the fuzz target.

use std::path::Path;

use quarry_eval::{EvalError, Qrels, Run, read_qrels, read_run, write_run};

/// Reads `bytes` as a run and as judgements, plain or gzipped. They are refused in
/// one line that names a line of the file, or survive being written.
pub fn trec(folder: &Path, bytes: &[u8]) {
    let gzip = bytes.starts_with(b"\x1f\x8b");
    let path = folder.join(if gzip { "trec.gz" } else { "trec" });
    std::fs::write(&path, bytes).expect("the input is written");
    let lines = match gzip {
        true => usize::MAX,
        false => bytes.iter().filter(|byte| **byte == b'\n').count() + 1,
    };
    match read_run(&path) {
        Ok(run) => run_survives(folder, &run),
        Err(error) => told_well(&error, lines),
    }
    match read_qrels(&path) {
        Ok(qrels) => qrels_survive(folder, &qrels),
        Err(error) => told_well(&error, lines),
    }
}

fn told_well(error: &EvalError, lines: usize) {
    let message = error.to_string();
    assert!(!message.chars().any(char::is_control), "{message:?}");
    if let EvalError::Malformed { line, .. } = error {
        assert!((1..=lines).contains(line), "{message} of {lines} lines");
    }
}

fn run_survives(folder: &Path, run: &Run) {
    let path = folder.join("written");
    match write_run(&path, run, "tag") {
        Ok(()) => assert_eq!(&read_run(&path).expect("a written run reads back"), run),
        Err(EvalError::UnwritableId { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    for (query, retrieved) in run.iter() {
        let ranking = run.ranking(query);
        assert_eq!(ranking.len(), retrieved.len());
        assert!(ranking.is_sorted_by(|a, b| a.1 >= b.1));
    }
}

fn qrels_survive(folder: &Path, qrels: &Qrels) {
    let path = folder.join("written");
    // The mark and the header are passed over, whatever the first id is.
    let mut text = String::from("\u{feff}query-id\tcorpus-id\tscore\n");
    for (query, judged) in qrels.iter() {
        for (document, grade) in judged {
            text.push_str(&format!("{query}\t{document}\t{grade}\n"));
        }
    }
    std::fs::write(&path, text).expect("the judgements are written");
    assert_eq!(&read_qrels(&path).expect("written qrels read back"), qrels);
}
