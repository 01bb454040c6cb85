//! Replays the corpora that fuzzing has gathered (see scripts/fuzz).
#![allow(clippy::unwrap_used)]

mod checks;

use std::path::Path;

fn replay(target: &str, check: fn(&Path, &[u8])) {
    let folder = tempfile::tempdir().unwrap();
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz");
    let mut files = 0;
    for item in std::fs::read_dir(inputs.join(target)).unwrap() {
        let path = item.unwrap().path();
        println!("{}", path.display());
        check(folder.path(), &std::fs::read(path).unwrap());
        files += 1;
    }
    assert!(files > 0);
}

#[test]
fn json_of_collections() {
    replay("json", checks::json);
}

#[test]
fn tables_of_collections() {
    replay("tsv", checks::tsv);
}

#[test]
fn arrow_tables() {
    replay("arrow", checks::arrow);
}

#[test]
fn embeddings() {
    replay("safetensors", checks::safetensors);
}
