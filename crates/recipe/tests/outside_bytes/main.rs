//! Replays the corpus that fuzzing has gathered (see scripts/fuzz).
#![allow(clippy::unwrap_used)]

mod checks;

use std::path::Path;

#[test]
fn recipes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz/recipe");
    let mut files = 0;
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        println!("{}", path.display());
        checks::recipe(&std::fs::read(path).unwrap());
        files += 1;
    }
    assert!(files > 0);
}
