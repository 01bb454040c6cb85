//! Where the programs under test are. Cargo tells a test only of its own
//! package's binaries, and builds no others; this finds those of the workspace
//! beside the test, and has cargo build them when they are missing or older
//! than the sources.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The four programs of a run.
const PROGRAMS: [&str; 4] = [
    "quarry",
    "quarry-coordinator",
    "quarry-inferencer",
    "quarry-trainer",
];

/// Names a folder of finished programs to test instead of this workspace's.
const ELSEWHERE: &str = "QUARRY_PROGRAMS";

/// Path of the program `name`, built from the present sources.
///
/// # Panics
/// If it is missing and cannot be built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let path = FOLDER.get_or_init(folder).join(name);
    assert!(
        path.is_file(),
        "the program {} is missing; run cargo build --workspace --bins",
        path.display()
    );
    path
}

fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(ELSEWHERE) {
        return PathBuf::from(folder);
    }
    // target/<profile>/deps/<test>
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap().to_owned();
    let newest = newest_source(&workspace());
    let up_to_date = |name: &str| modified(&folder.join(name)).is_some_and(|built| built >= newest);
    if !PROGRAMS.iter().all(|name| up_to_date(name)) {
        build(&folder);
    }
    folder
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn build(folder: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut command = Command::new(cargo);
    command.current_dir(workspace()).args([
        "build",
        "--quiet",
        "--workspace",
        "--bins",
        "--profile",
        profile,
    ]);
    // Cargo sets these for its tests; a build that inherits them would think
    // that its settings had changed.
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || name == "LD_LIBRARY_PATH"
        {
            command.env_remove(&key);
        }
    }
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("cargo cannot be started to build the programs: {e}"));
    assert!(
        output.status.success(),
        "the programs under test do not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// When the newest source of a program was written.
fn newest_source(root: &Path) -> SystemTime {
    let mut newest = modified(&root.join("Cargo.lock")).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut folders: Vec<PathBuf> = ["crates", "proto", "coordinator", "inferencer", "trainer"]
        .map(|name| root.join(name))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (item.path(), item.file_name());
            let no_source = ["tests", "examples", "testkit"].iter().any(|n| name == *n);
            if path.is_dir() {
                folders.extend((!no_source).then_some(path));
            } else if let Some(written) = modified(&path) {
                newest = newest.max(written);
            }
        }
    }
    newest
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|m| m.modified()).ok()
}
