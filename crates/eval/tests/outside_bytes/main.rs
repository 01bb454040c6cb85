//! Replays the corpus that fuzzing has gathered (see scripts/fuzz).
#![allow(clippy::unwrap_used)]

mod checks;

use std::path::Path;

#[test]
fn trec_files() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz/trec");
    let mut files = 0;
    for item in std::fs::read_dir(inputs).unwrap() {
        let path = item.unwrap().path();
        println!("{}", path.display());
        checks::trec(folder.path(), &std::fs::read(path).unwrap());
        files += 1;
    }
    assert!(files > 0);
}
